import numpy as np
import pytest
import torch

from steerscope.analysis.engine.edits import added
from steerscope.analysis.errors import BadArgument, BadInjection, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import perplexity
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.vectors.prompt_pair import prompt_pair


def ask(
    model: Model, texts: list[str], positions: str = "front", coefficient: float = 3.0, **options: object
) -> Experiment:
    vector = prompt_pair(model, " wedding", " ship", 1)
    vector = vector if positions == "front" else vector.row(-1)
    injections = (Injection(vector, coefficient, positions=positions),)
    return Experiment(model, injections, make_prompts(model, texts), **{"references": 3, **options})  # type: ignore[arg-type]


def test_injected_positions_and_bos_are_left_out_by_default(tiny: Model) -> None:
    asked = ask(tiny, ["Tom had a red ball"])
    length = len(asked.prompts.ids[0])
    assert asked.injected == ((0, 1),)
    assert asked.scored_positions.positions == (tuple(range(2, length)),)
    assert "BOS left out" in asked.describe()["metric"]["scored"]


def test_positions_before_the_injection_are_not_scored(tiny: Model) -> None:
    asked = ask(tiny, ["Tom had a red ball"], positions="3")
    assert min(asked.scored_positions.positions[0]) == 4


@pytest.mark.parametrize("positions", ["last", "all"])
def test_where_everything_that_is_left_is_injected_the_last_position_is_scored(positions: str, tiny: Model) -> None:
    asked = ask(tiny, ["Tom had a red ball"], positions=positions)
    assert asked.scored_positions.positions == ((len(asked.prompts.ids[0]) - 1,),)
    assert "last position" in asked.scoring_rule


def test_scored_positions_can_be_chosen(tiny: Model) -> None:
    length = len(tiny.tokens("Tom had a red ball"))
    chosen = {"all": tuple(range(length)), "last": (length - 1,), (2, -1): (2, length - 1)}
    for scored, expected in chosen.items():
        assert ask(tiny, ["Tom had a red ball"], scored=scored).scored_positions.positions == (expected,)
    with pytest.raises(
        BadArgument, match="got scored='first'; expected one of all, last, own, a sequence, a PerPrompt or None"
    ):
        _ = ask(tiny, ["Tom had"], scored="first").scored_positions


def test_a_prompt_with_nothing_left_to_score_is_refused(tiny: Model) -> None:
    """The loss at the last position would need a token that follows."""
    asked = ask(tiny, ["Tom"], positions="last", metric=perplexity(), scored=(-1,))
    with pytest.raises(BadPrompt, match="prompt 1 .'Tom'. has no position left to score"):
        _ = asked.scored_positions


def test_a_vector_longer_than_a_prompt_is_refused(tiny: Model) -> None:
    vector = prompt_pair(tiny, "One day Tom and Lily saw a wedding", " ship", 1)
    with pytest.raises(BadInjection, match="the vector has .* positions and the prompt only 3 tokens"):
        Experiment(tiny, (Injection(vector),), make_prompts(tiny, ["Tom"]))


def test_references_are_the_same_for_the_same_seed_and_others_for_another(tiny: Model) -> None:
    first, again, other = (ask(tiny, ["Tom had a red ball"], seed=s) for s in (1, 1, 2))
    hashes = [
        [i.describe()["vector"]["hash"] for group in asked.steering for i in group] for asked in (first, again, other)
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0][0] == hashes[2][0] and not set(hashes[0][1:]) & set(hashes[2][1:])


def test_kl_is_positive_and_zero_without_an_injection(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories)
    assert (asked.kl(asked.injections) > 0).all()
    assert np.abs(ask(tiny, stories, coefficient=0.0).kl(ask(tiny, stories, coefficient=0.0).injections)).max() == 0


def test_vectors_can_be_compared_at_equal_disturbance(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories, coefficient=0.5, matched="kl")
    target = asked.kl(asked.injections).mean()
    for reference in asked.steering[1:]:
        assert asked.kl(reference).mean() == pytest.approx(target, rel=0.02)
    assert len({group[0].coefficient for group in asked.steering}) == 4


def test_other_concepts_can_be_compared_at_equal_disturbance_too(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories[:4], coefficient=0.5, matched="kl", references="concepts:2,isotropic:1")
    target = asked.kl(asked.injections).mean()
    assert [round(asked.disturbed(v).mean() / target, 1) for v in asked.vectors] == [1.0] * 4
    assert ("", *asked.beside.families) == ("", "isotropic", "concepts", "concepts")


def test_a_disturbance_out_of_reach_is_refused(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories)
    with pytest.raises(BadInjection, match="no coefficient from 1/1000 to 1000"):
        asked.at_kl(asked.injections, 1e6)


def test_bad_questions_are_refused(tiny: Model) -> None:
    prompts = make_prompts(tiny, ["Tom had a ball"])
    with pytest.raises(BadInjection, match="no injections given"):
        Experiment(tiny, (), prompts)
    with pytest.raises(BadArgument, match="references='isotropic:-1'"):
        ask(tiny, ["Tom had a ball"], references=-1)
    with pytest.raises(BadArgument, match="matched='size'; expected one of norm, kl"):
        ask(tiny, ["Tom had a ball"], matched="size")


def test_two_injections_of_a_reference_draw_two_directions(tiny: Model, stories: list[str]) -> None:
    """With one seed for both, 3 x wedding - 3 x dragon would have a reference of norm near 0."""
    first, second = prompt_pair(tiny, " wedding", " ship", 1), prompt_pair(tiny, " dragon", " ship", 1)
    asked = Experiment(
        tiny, (Injection(first, 3.0), Injection(second, -3.0)), make_prompts(tiny, stories), references=4
    )
    for reference in asked.steering[1:]:
        a, b = (one.vector.values[-1] for one in reference)
        assert abs(torch.cosine_similarity(a, b, dim=0)) < 0.8


@pytest.mark.parametrize("positions", [("front", "front"), ("front", (1, 3)), ((2, 3), (3, 4))])
@pytest.mark.parametrize(("kind", "family"), [("norm", "isotropic"), ("norm", "concepts"), ("kl", "isotropic")])
def test_what_a_reference_adds_together_has_the_norm_of_what_the_injections_add(
    positions: tuple[object, object], kind: str, family: str, tiny: Model, stories: list[str]
) -> None:
    vectors = [prompt_pair(tiny, word, " ship", 1) for word in (" wedding", " dragon")]
    injections = tuple(
        Injection(vector if place == "front" else vector.body.row(-1), size, positions=place)  # type: ignore[arg-type]
        for vector, place, size in zip(vectors, positions, (3.0, -2.0), strict=True)
    )
    asked = Experiment(tiny, injections, make_prompts(tiny, stories[:3]), references=f"{family}:2", matched=kind)  # type: ignore[arg-type]
    for vector in (1, 2):
        ratios = set()
        for p, (own, real) in enumerate(zip(asked.edits(vector), asked.edits(0), strict=True)):
            length = len(asked.prompts.ids[p])
            norms = [added(edits, length, tiny.d_model).norm(dim=-1) for edits in (own, real)]
            assert ((norms[0] > 0) == (norms[1] > 0)).all()
            ratios |= {round(float(x), 4) for x in (norms[0] / norms[1])[norms[1] > 0]}
        assert len(ratios) == 1 and (kind == "kl" or ratios == {1.0})


def test_a_share_of_the_edits_is_that_share_of_the_coefficients(tiny: Model, stories: list[str]) -> None:
    asked = ask(tiny, stories[:2])
    for own, whole in zip(asked.edits(1, 0.25), asked.edits(1), strict=True):
        for a, b in zip(own, whole, strict=True):
            torch.testing.assert_close(a.value, 0.25 * b.value)
