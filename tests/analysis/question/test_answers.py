"""Answers of each prompt's own: the score of every prompt is that of its own tokens, wherever it runs in a batch."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from steerscope.analysis.carriers.attribute import attribute
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.errors import BadMetric, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.answers import PerPrompt
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import kl, log_prob
from steerscope.analysis.question.prompt_files import read_table
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.sweeps.plan import plan
from steerscope.analysis.vectors.prompt_pair import prompt_pair

TEXTS = ["One day Lily saw a", "Tom had a big red", "The dragon and the cat went to the"]
ANSWERS = [" dragon", [" ball", " dragon"], " ship"]
OTHERS = [" ball", " ship", " dragon"]


def ask(model: Model, **options: object) -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ", 0), 3.0)
    metric = log_prob(PerPrompt(ANSWERS), PerPrompt(OTHERS))
    return Experiment(model, injection, TEXTS, **{"metric": metric, "references": 1, **options})  # type: ignore[arg-type]


def by_hand(model: Model, edits: object = None) -> np.ndarray:
    found = []
    for text, answer, other in zip(TEXTS, ANSWERS, OTHERS, strict=True):
        logits = plain_logits(model, model.tokens(text), [])[-1]
        ids = [model.single_token(t) for t in ([answer] if isinstance(answer, str) else answer)]
        found.append(float(logits[ids].logsumexp(0) - logits[model.single_token(other)]))
    return np.array(found)


def test_each_prompt_is_scored_by_its_own_answer_at_its_end(tiny: Model) -> None:
    experiment = ask(tiny)
    assert experiment.scored_positions.positions == tuple((len(ids) - 1,) for ids in experiment.prompts.ids)
    assert experiment.value(None) == pytest.approx(by_hand(tiny), abs=1e-5)
    for p in range(len(TEXTS)):
        metric = log_prob(PerPrompt([ANSWERS[p]]), [OTHERS[p]])
        alone = Experiment(tiny, experiment.injections, make_prompts(tiny, [TEXTS[p]]), metric, references=1)
        assert experiment.effect()[p] == pytest.approx(alone.effect()[0], abs=1e-5)


def test_without_distractors_it_is_the_log_probability(tiny: Model) -> None:
    experiment = ask(tiny, metric=log_prob(PerPrompt(OTHERS)))
    same = [
        Experiment(tiny, experiment.injections, make_prompts(tiny, [t]), log_prob(o), scored="last")
        for t, o in zip(TEXTS, OTHERS, strict=True)
    ]
    assert experiment.value(0) == pytest.approx([float(one.value(0)[0]) for one in same], abs=1e-5)


def test_exact_effects_and_gradients_are_the_means_of_those_of_each_prompt_alone(tiny: Model) -> None:
    together = ask(tiny)
    measured = partial(exact, completions=0, writers=False, attention=False, growing=False)
    for method, close in (
        (measured, 2e-5),
        (attribute, 1e-3),
    ):  # steps of gradients are chosen for all prompts together
        alone = []
        for answer, other, text in zip(ANSWERS, OTHERS, TEXTS, strict=True):
            metric = log_prob(PerPrompt([answer]), PerPrompt([other]))
            prompts = make_prompts(tiny, [text])
            alone.append(effects(method(Experiment(tiny, together.injections, prompts, metric, references=1))))
        found = effects(method(together))
        assert np.abs(found).max() > 1e-3 and np.allclose(found, np.mean(alone, axis=0), atol=close)


def effects(result: Result) -> np.ndarray:
    table = result.frames["effects"].sort_values(["node", "measure"])
    return table["effect"].to_numpy()


def test_what_both_answers_begin_with_goes_to_the_prompt_and_the_first_difference_is_scored(tiny: Model) -> None:
    metric = log_prob(PerPrompt([" (A)"] * 3), PerPrompt([" (B)"] * 3))
    prompts = ask(tiny, metric=metric).prompts
    shared = tiny.encode(" (A)")[: tiny.encode(" (A)").index(tiny.encode("A")[0])]
    assert shared and all(ids == (*tiny.tokens(text), *shared) for ids, text in zip(prompts.ids, TEXTS, strict=True))
    assert [tiny.token_text(t) for (t,) in prompts.targets] == ["A"] * 3
    assert [tiny.token_text(t) for (t,) in prompts.against] == ["B"] * 3
    assert prompts.texts[0] == TEXTS[0] + " ("


def test_a_part_of_the_prompts_keeps_its_answers(tiny: Model) -> None:
    experiment = ask(tiny)
    part = replace(experiment, prompts=experiment.prompts.some([2, 0]))
    assert part.effect() == pytest.approx(experiment.effect()[[2, 0]], abs=1e-5)
    assert part.prompts.hash != replace(part.prompts, targets=part.prompts.targets[::-1]).hash
    with pytest.raises(BadMetric, match="no answers of their own"):
        replace(experiment, prompts=make_prompts(tiny, TEXTS)).effect()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda: log_prob(PerPrompt([" dragon"])), "targets of 1 prompts for 3 prompts"),
        (lambda: log_prob(PerPrompt([" dragon", "", " dragon"])), "an empty entry for prompt 2"),
        (lambda: log_prob(PerPrompt([" dragon", 10**6, " dragon"])), "token id 1000000 of prompt 2 is outside"),
        (
            lambda: log_prob(PerPrompt([" dragon", " dragon ball", " dragon"])),
            "' dragon ball' of prompt 2 is not a single token",
        ),
        (
            lambda: log_prob(PerPrompt([" dragon"] * 3), PerPrompt([" ball", " dragon", " ship"])),
            "of prompt 2 are the same",
        ),
        (lambda: log_prob(PerPrompt([" dragon"] * 3), [" dragon ball"]), "begin"),
    ],
)
def test_answers_that_do_not_fit_are_refused(metric, words: str, tiny: Model) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadMetric, match=words):
        ask(tiny, metric=metric())


def test_each_prompt_is_scored_at_its_own_positions(tiny: Model) -> None:
    experiment = ask(tiny, metric=kl(), scored=PerPrompt([3, [-1, 4], [2, 5]]))
    lengths = [len(ids) for ids in experiment.prompts.ids]
    assert experiment.scored_positions.positions == ((3,), (4, lengths[1] - 1), (2, 5))
    assert experiment.scoring_rule == "positions of each prompt's own"
    part = replace(experiment, prompts=experiment.prompts.some([1]))
    assert part.effect() == pytest.approx(experiment.effect()[[1]], abs=1e-5)
    for scored in (PerPrompt([3]), PerPrompt([3, 99, 2]), PerPrompt([3, "x", 2]), "own"):
        with pytest.raises(BadPrompt):
            ask(tiny, metric=kl(), scored=scored).effect()


def test_a_sweep_refuses_answers_of_each_prompts_own(tiny: Model) -> None:
    with pytest.raises(BadMetric, match="a sweep cannot measure log_prob of each prompt's own answers"):
        plan(tiny, prompt_pair(tiny, " wedding", " ", 1).row(-1), TEXTS, metric=log_prob(PerPrompt(OTHERS)))


EAP = """clean,corrupted,correct_idx,incorrect_idx
One day Lily saw a,One day Tom saw a,12,13
Tom had a big,Lily had a big,7,"[9, 4]"
"""
EVALS = (
    '{"question": "Is it so?", "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}\n'
    '{"question": "Or so?", "answer_matching_behavior": " (B)", "answer_not_matching_behavior": " (A)"}\n'
)


def test_published_files_are_read_by_their_columns(tmp_path: Path, tiny: Model) -> None:
    (tmp_path / "eap.csv").write_text(EAP)
    found = read_table(tmp_path / "eap.csv", "clean", ["correct_idx", "incorrect_idx"])
    assert found.prompts == ["One day Lily saw a", "Tom had a big"]
    assert found.columns == {"correct_idx": [[12], [7]], "incorrect_idx": [[13], [9, 4]]}
    (tmp_path / "evals.jsonl").write_text(EVALS)
    names = ["answer_matching_behavior", "answer_not_matching_behavior"]
    table = read_table(tmp_path / "evals.jsonl", "question", names)
    metric = log_prob(*(PerPrompt(table.columns[name]) for name in names))
    prompts = Experiment(tiny, ask(tiny).injections, make_prompts(tiny, table.prompts), metric).prompts
    assert [tiny.token_text(t) for (t,) in prompts.targets] == ["A", "B"]
    with pytest.raises(BadPrompt, match="has the columns .*; expected one named nowhere"):
        read_table(tmp_path / "eap.csv", "clean", ["nowhere"])
    (tmp_path / "bad.csv").write_text(EAP.replace("12", "twelve"))
    with pytest.raises(BadPrompt, match="line 2 has 'twelve' under correct_idx; expected token ids"):
        read_table(tmp_path / "bad.csv", "clean", ["correct_idx"])
    (tmp_path / "plain.txt").write_text("One\n")
    with pytest.raises(BadPrompt, match="has no columns"):
        read_table(tmp_path / "plain.txt", "clean")


def test_gradients_do_not_pass_through_tokens_of_other_prompts(tiny: Model) -> None:
    experiment = ask(tiny)
    read = experiment.scored_positions.readout(experiment.clean)
    logits = torch.stack([plain_logits(tiny, ids, [])[-1] for ids in experiment.prompts.ids])
    hidden = logits.detach().clone().requires_grad_()
    readout = replace(read, logits=hidden)
    experiment.along(readout).sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    for row, targets, against in zip(hidden.grad, experiment.prompts.targets, experiment.prompts.against, strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == {*targets, *against}
        assert torch.isfinite(row).all()
