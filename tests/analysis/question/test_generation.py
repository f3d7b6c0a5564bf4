from dataclasses import replace
from typing import Any

import pytest
import torch
from hf_hooks import plainly
from reference import plain_logits

from steerscope.analysis.errors import BadArgument, BadInjection, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.question.bundles import bundle
from steerscope.analysis.question.generation import complete, draw, generate, generate_many, row
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.analysis.vectors.vector import SteeringVector

PROMPT = "One day Lily saw a"


@pytest.fixture(scope="module", params=["front", "back", "last", "all"])
def injection(request: pytest.FixtureRequest, tiny: Model) -> Injection:
    vector = prompt_pair(tiny, " wedding", " ship", 1).body
    return Injection(vector.row(-1), 4.0, positions=request.param)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_cache_changes_nothing_in_the_text(temperature: float, tiny: Model, injection: Injection) -> None:
    texts = [
        generate(tiny, PROMPT, injection, tokens=20, temperature=temperature, cache=cache) for cache in (True, False)
    ]
    assert texts[0] == texts[1] and len(texts[0]) > 0


def test_only_positions_of_the_prompt_are_edited(tiny: Model, injection: Injection) -> None:
    """Greedy, by hand: the whole text so far is read anew each time, edited at the prompt's positions."""
    ids = tiny.tokens(PROMPT)
    edit = injection.edit(Layout(len(ids), True))

    def hook(x: torch.Tensor, hook: object) -> torch.Tensor:
        x = x.clone()
        x[:, list(edit.positions or ())] += edit.value
        return x

    text = list(ids)
    for _ in range(10):
        logits = tiny.bridge.run_with_hooks(torch.tensor([text]), fwd_hooks=[("blocks.1.hook_resid_pre", hook)])
        text.append(int(logits[0, -1].argmax()))
    made = generate(tiny, PROMPT, injection, tokens=10, temperature=0)
    expected = text[len(ids) :]
    assert made == (expected[: expected.index(tiny.bos)] if tiny.bos in expected else expected)


def test_an_injection_changes_the_text_and_none_does_not(tiny: Model, injection: Injection) -> None:
    clean = generate(tiny, PROMPT, tokens=20, seed=1)
    assert (
        generate(tiny, PROMPT, Injection(injection.vector, 0.0, positions=injection.place), tokens=20, seed=1) == clean
    )
    assert (
        generate(tiny, PROMPT, Injection(injection.vector, 30.0, positions=injection.place), tokens=20, seed=1) != clean
    )


def test_the_same_seed_gives_the_same_text(tiny: Model) -> None:
    assert generate(tiny, PROMPT, seed=3) == generate(tiny, PROMPT, seed=3) != generate(tiny, PROMPT, seed=4)


def test_generation_ends_at_the_context(tiny: Model) -> None:
    ids = (tiny.tokens(PROMPT) * 20)[: tiny.n_ctx - 3]
    assert len(generate(tiny, ids, tokens=50)) <= 3


def test_bad_arguments_are_refused(tiny: Model) -> None:
    with pytest.raises(BadArgument, match="temperature=-1"):
        generate(tiny, PROMPT, temperature=-1)
    with pytest.raises(BadPrompt, match="empty or blank"):
        generate(tiny, " ")


MANY = ["One day Lily saw a", "Tom", "The ship was on the sea and the dog"]
IDS = [[3, 14, 15, 9, 26, 5, 35, 8, 9], [2, 71], [1, 61, 80, 33]]  # longer than windows, and shorter


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("during", ["prompt", "generation", "both"])
@pytest.mark.parametrize("operation", ["add", "ablate", "rotate"])
def test_what_is_generated_is_edited_when_it_is_read(operation: Any, during: Any, cache: bool, tiny: Model) -> None:
    """Greedy, by hand: the whole text is read anew each time, edited by plain arithmetic where it says."""
    vector = prompt_pair(tiny, " wedding", " ship", 1).row(-1)
    injection = Injection(vector, 1.0 if operation == "ablate" else 30.0, positions="all", operation=operation)
    ids = tiny.tokens(PROMPT)
    text = list(ids)
    for _ in range(12):
        edited = {"prompt": range(1, len(ids)), "generation": range(len(ids), len(text)), "both": range(1, len(text))}
        logits = plain_logits(tiny, text, [injection.generated(tuple(edited[during]))] if edited[during] else [])
        text.append(int(logits[-1].argmax()))
    expected = text[len(ids) :]
    expected = expected[: expected.index(tiny.bos)] if tiny.bos in expected else expected
    assert generate(tiny, PROMPT, injection, tokens=12, temperature=0, cache=cache, during=during) == expected


@pytest.mark.parametrize("during", ["prompt", "both"])
def test_many_prompts_at_once_are_as_each_alone(during: Any, every_architecture: Model) -> None:
    """Different lengths in one batch, windows and rotary positions included."""
    model = every_architecture
    vector = SteeringVector(
        torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(1)), Site("resid_pre", 1)
    )
    injection = Injection(vector, 2.0, positions="last", during=during)
    alone = [generate(model, ids, injection, seed=5 + n, tokens=8) for n, ids in enumerate(IDS)]
    assert generate_many(model, IDS, injection, seed=5, tokens=8) == alone


def test_rows_of_several_injections_keep_each_its_own_and_their_order(tiny: Model) -> None:
    one = Injection(prompt_pair(tiny, " wedding", " ship", 1).row(-1), 3.0, positions="last", during="both")
    two = replace(one, operation="ablate", coefficient=1.0, vector=prompt_pair(tiny, " dog", " ship", 1).row(-1))
    asked = [(), (one, two), (two, one), (one,)]
    rows = [row(tiny, tiny.tokens(MANY[n % 3]), several, n) for n, several in enumerate(asked)]
    alone = [complete(tiny, [each], tokens=15)[0] for each in rows]
    assert complete(tiny, rows, tokens=15) == alone
    assert complete(tiny, rows, tokens=15, cache=False) == alone


def test_prompts_that_reach_the_end_of_the_context_are_cut_as_alone(tiny: Model) -> None:
    long = (tiny.tokens(PROMPT) * 20)[: tiny.n_ctx - 3]
    prompts = [long, tiny.tokens("Tom"), long[:-1]]
    assert generate_many(tiny, prompts, tokens=6) == [
        generate(tiny, p, tokens=6, seed=n) for n, p in enumerate(prompts)
    ]


def test_a_draw_from_the_likely_is_one_from_all(tiny: Model) -> None:
    """A large vocabulary is not sorted whole."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 5.0):
        logits = scale * torch.randn(10_000, generator=generator)
        chances = logits.double().softmax(-1)
        ordered, tokens = chances.sort(descending=True)
        for seed in range(20):
            chance = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).item()
            kept = int((ordered.cumsum(-1) < 0.9).sum()) + 1
            place = int((ordered[:kept].cumsum(-1) / ordered[:kept].sum() < chance).sum())
            assert draw(logits, 1.0, 0.9, torch.Generator().manual_seed(seed)) == int(tokens[min(place, kept - 1)])


def test_a_generated_token_takes_one_row(tiny: Model) -> None:
    vector = SteeringVector(torch.ones(2, tiny.d_model), Site("resid_pre", 1))
    with pytest.raises(BadInjection, match="a generated token takes one"):
        Injection(vector, 1.0, during="both")
    with pytest.raises(BadInjection, match="a generated token takes one"):
        generate(tiny, PROMPT, Injection(vector, 1.0), during="generation")


CASES = [(operation, during) for operation in ("add", "ablate") for during in ("prompt", "generation", "both")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_text_is_that_of_plain_hugging_face_hooks(name: str, small_models: Any) -> None:
    model = small_models[name]
    rows = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(1))
    vectors = {layer: SteeringVector(2 * row, Site("resid_pre", 0)) for layer, row in enumerate(rows)}
    asked: dict[str, Any] = {"coefficient": 1.0, "prompts": IDS, "tokens": 10}
    asked["vectors"] = {layer: vector.values[0].tolist() for layer, vector in vectors.items()}
    cases = [asked | {"operation": operation, "during": during} for operation, during in CASES]
    for (operation, during), found in zip(CASES, plainly(cases, model=str(small_models.folder(name))), strict=True):
        for ids, expected in zip(IDS, found, strict=True):
            several: Any = bundle(vectors, 1.0, tuple(range(1, len(ids))), operation, during)  # type: ignore[arg-type]
            for cache in (True, False):
                assert generate(model, ids, several, tokens=10, temperature=0, cache=cache) == expected["tokens"]
