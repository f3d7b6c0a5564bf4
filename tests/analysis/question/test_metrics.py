"""Each metric against its definition, computed by hand from one plain pass a prompt."""

import pytest
import torch
from torch import Tensor

from steerscope.analysis.engine.edits import Variant
from steerscope.analysis.engine.plain import plain_logits
from steerscope.analysis.errors import BadMetric, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import METRICS, Metric, Outputs, kl, log_prob, logit_direction, perplexity
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


def test_logit_direction_of_the_full_injection_is_the_size_of_its_centred_change(tiny: Model) -> None:
    asked = experiment(tiny, logit_direction())
    found = values(asked)
    for prompt in range(3):
        clean, steered = by_hand(asked, prompt)
        change = steered - clean
        expected = (change - change.mean(-1, keepdim=True)).norm(dim=-1).mean()
        assert found[1, prompt] == pytest.approx(expected.item(), rel=1e-4)
    assert found[0].abs().max() < 1e-4


def test_logit_direction_reads_the_same_before_and_after_the_unembedding(tiny: Model) -> None:
    asked = experiment(tiny, logit_direction())
    variants = [Variant(p, asked.edits(1)[p]) for p in range(3)]
    capped = Outputs(None, asked.clean.logits)  # as of a model whose logits are no linear function of the stream
    scores = [logit_direction().prepare(asked.scored_positions, c, asked.steered) for c in (asked.clean, capped)]
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
