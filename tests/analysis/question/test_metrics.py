"""Each metric against its definition, computed by hand from one plain pass a prompt."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.errors import BadMetric, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import (
    METRICS,
    Metric,
    kl,
    log_prob,
    logit_direction,
    own_direction,
    perplexity,
)
from steerscope.analysis.question.outputs import Outputs
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair

TEXTS = ["One day Lily saw a dragon near the ship", "Tom had a red ball", "Once upon a time there was a wedding"]


def experiment(model: Model, metric: Metric) -> Experiment:
    injection = Injection(prompt_pair(model, " wedding", " ship", 1), 3.0)
    return Experiment(model, (injection,), make_prompts(model, TEXTS), metric, references=2)


def values(asked: Experiment) -> Tensor:
    """The metric of the clean and the steered run of every prompt: [2, prompt]."""
    variants = [Variant(p) for p in range(3)] + [Variant(p, asked.edits(0)[p]) for p in range(3)]
    metric = asked.metric
    score = metric.prepare(asked.scored_positions, asked.clean, asked.steered)
    return torch.tensor(asked.scores(variants, [score], metric.reads)[:, 0].reshape(2, 3)).float()


def by_hand(asked: Experiment, prompt: int) -> tuple[Tensor, Tensor]:
    """Clean and steered logits at the scored positions, from plain passes."""
    ids, positions = asked.prompts.full[prompt], list(asked.scored_positions.positions[prompt])
    runs = [plain_logits(asked.model, ids, edits) for edits in ((), asked.edits(0)[prompt])]
    return runs[0][positions], runs[1][positions]


def test_kl_is_that_of_steered_from_clean(tiny: Model) -> None:
    asked = experiment(tiny, kl())
    found = values(asked)
    for prompt in range(3):
        clean, steered = (x.log_softmax(-1) for x in by_hand(asked, prompt))
        expected = torch.nn.functional.kl_div(clean, steered, log_target=True, reduction="none").sum(-1).mean()
        assert found[1, prompt] == pytest.approx(expected.item(), rel=1e-4)
    assert found[0].abs().max() < 1e-6


def test_log_prob_is_that_of_any_of_the_targets(tiny: Model) -> None:
    asked = experiment(tiny, log_prob([" wedding", " ship"]))
    ids = [tiny.single_token(" wedding"), tiny.single_token(" ship")]
    found = values(asked)
    for prompt in range(3):
        for row, logits in enumerate(by_hand(asked, prompt)):
            expected = logits.softmax(-1)[:, ids].sum(-1).log().mean()
            assert found[row, prompt] == pytest.approx(expected.item(), abs=1e-4)


def test_log_prob_against_other_words_is_the_difference_of_the_two(tiny: Model) -> None:
    wanted, rest = [" wedding", " ship"], [" ring", " park"]
    both, one, other = (
        values(experiment(tiny, metric)) for metric in (log_prob(wanted, rest), log_prob(wanted), log_prob(rest))
    )
    torch.testing.assert_close(both, one - other, atol=1e-4, rtol=0)


def test_own_direction_of_the_full_injection_is_the_size_of_its_centred_change(tiny: Model) -> None:
    asked = experiment(tiny, own_direction())
    found = values(asked)
    for prompt in range(3):
        clean, steered = by_hand(asked, prompt)
        change = steered - clean
        expected = (change - change.mean(-1, keepdim=True)).norm(dim=-1).mean()
        assert found[1, prompt] == pytest.approx(expected.item(), rel=1e-4)
    assert found[0].abs().max() < 1e-4


def others_direction(asked: Experiment, variants: Sequence[Sequence[Edit]]) -> list[float]:
    """`logit_direction` of edited runs, one a prompt, from plain logits in float64: prompts of a group have as
    much say as they are, each by the mean over its scored positions."""
    groups, changes, found = asked.prompts.by_group.tolist(), [], []
    for prompt in range(len(groups)):
        clean, steered = (x.double() for x in by_hand(asked, prompt))
        change = steered - clean
        changes.append((change - change.mean(-1, keepdim=True)).mean(0))
    for prompt, group in enumerate(groups):
        direction = sum(change for change, other in zip(changes, groups, strict=True) if other != group)
        assert isinstance(direction, Tensor)
        direction = direction / direction.norm()
        positions = list(asked.scored_positions.positions[prompt])
        ids = asked.prompts.full[prompt]
        runs = [plain_logits(asked.model, ids, edits)[positions].double() for edits in ((), variants[prompt])]
        found.append(((runs[1] - runs[0]) @ direction).mean().item())
    return found


@pytest.mark.parametrize("groups", [(0, 1, 2, 3), (0, 1, 0, 2), (5, 3, 3, 3)])
def test_logit_direction_is_that_of_the_other_groups(groups: tuple[int, ...], tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    prompts = make_prompts(tiny, [*TEXTS, "The bride had a big cake"], groups=groups)
    asked = Experiment(tiny, (injection,), prompts, references=2)
    assert asked.metric.name == "logit_direction"
    expected = others_direction(asked, asked.edits(0))
    assert asked.effect() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    other = [Variant(p, asked.edits(1)[p]) for p in range(4)]
    assert asked.score(other) == pytest.approx(others_direction(asked, asked.edits(1)), rel=1e-4, abs=1e-4)
    # Of a reference along its own change, in the same way.
    own = replace(asked, injections=asked.steering[1])
    assert asked.own_effect(1) == pytest.approx(others_direction(own, own.edits(0)), rel=1e-4, abs=1e-4)


def test_a_prompt_has_no_say_in_its_own_direction(tiny: Model) -> None:
    """Where one prompt is steered the other way, its effect is negative; its own direction would not say so."""
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    asked = Experiment(tiny, (injection,), make_prompts(tiny, [*TEXTS, "The bride had a big cake"]), references=0)
    steered = asked.steered
    turned = asked.clean.logits - (steered.logits - asked.clean.logits)
    first = len(asked.scored_positions.positions[0])
    mixed = Outputs(None, torch.cat([turned[:first], steered.logits[first:]]))
    clean = Outputs(None, asked.clean.logits)
    signs = {}
    for metric in (logit_direction(), own_direction()):
        score = metric.prepare(asked.scored_positions, clean, mixed)
        effects = asked.scored_positions.mean(score(asked.scored_positions.readout(mixed)))
        signs[metric.name] = (effects > 0).tolist()
    plain = (asked.effect() > 0).tolist()
    assert plain[0] and not signs["logit_direction"][0] and signs["own_direction"] == [True] * 4


def test_with_one_group_the_direction_is_the_own_one(tiny: Model) -> None:
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 3.0)
    prompts = make_prompts(tiny, TEXTS, groups=["same"] * 3)
    one, own = (Experiment(tiny, (injection,), prompts, m, references=0) for m in (logit_direction(), own_direction()))
    assert one.effect() == pytest.approx(own.effect(), rel=1e-6)
    assert (own.effect() > 0).all()


@pytest.mark.parametrize("metric", [logit_direction(), own_direction()], ids=["others", "own"])
def test_a_direction_reads_the_same_before_and_after_the_unembedding(metric: Metric, tiny: Model) -> None:
    asked = experiment(tiny, metric)
    variants = [Variant(p, asked.edits(1)[p]) for p in range(3)]
    capped = Outputs(None, asked.clean.logits)  # as of a model whose logits are no linear function of the stream
    scores = [metric.prepare(asked.scored_positions, c, asked.steered) for c in (asked.clean, capped)]
    found = asked.scores(variants, scores, "logits").T
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_perplexity_is_the_loss_on_the_prompts_own_tokens(tiny: Model) -> None:
    asked = experiment(tiny, perplexity())
    found = values(asked)
    for prompt in range(3):
        positions = asked.scored_positions.positions[prompt]
        following = torch.tensor([asked.prompts.ids[prompt][p + 1] for p in positions])
        for row, logits in enumerate(by_hand(asked, prompt)):
            assert found[row, prompt] == pytest.approx(
                torch.nn.functional.cross_entropy(logits, following).item(), abs=1e-4
            )


def test_perplexity_of_a_continuation_reads_what_predicts_it_and_injects_into_the_prompt_alone(tiny: Model) -> None:
    asked = experiment(tiny, perplexity(" and saw a red ring"))
    length = len(tiny.encode(" and saw a red ring"))
    for ids, full, positions in zip(
        asked.prompts.ids, asked.prompts.full, asked.scored_positions.positions, strict=True
    ):
        assert positions == tuple(range(len(ids) - 1, len(full) - 1)) and len(positions) == length
    assert all(max(p) < len(ids) for p, ids in zip(asked.injected, asked.prompts.ids, strict=True))
    clean, _ = by_hand(asked, 1)
    following = torch.tensor(asked.prompts.continuations[1])
    assert values(asked)[0, 1] == pytest.approx(torch.nn.functional.cross_entropy(clean, following).item(), abs=1e-4)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_name_a_unit_and_no_effect_without_an_injection(name: str, tiny: Model) -> None:
    metric = METRICS[name]([" ship"]) if name == "log_prob" else METRICS[name]()
    assert metric.name == name and metric.unit
    injection = Injection(prompt_pair(tiny, " wedding", " ship", 1), 0.0)
    asked = Experiment(tiny, (injection,), make_prompts(tiny, TEXTS), metric, references=0)
    found = values(asked)
    assert torch.equal(found[0], found[1])


def test_targets_that_are_no_single_tokens_are_refused_with_their_pieces(tiny: Model) -> None:
    with pytest.raises(
        BadMetric, match=r"' wedding cake' is not a single token of tiny: it becomes ' wedding', ' cake'"
    ):
        values(experiment(tiny, log_prob([" wedding cake"])))
    with pytest.raises(BadMetric, match="no targets"):
        log_prob([])
    with pytest.raises(BadMetric, match="outside of the vocabulary"):
        values(experiment(tiny, log_prob([99999])))


def test_a_continuation_must_fit_and_say_something(tiny: Model) -> None:
    with pytest.raises(BadPrompt, match="continuation '' is empty"):
        experiment(tiny, perplexity(""))
    with pytest.raises(BadPrompt, match="reads at most 64"):
        experiment(tiny, perplexity("word " * 100))
