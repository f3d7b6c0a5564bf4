import pytest
import torch

from steerscope.analysis.errors import BadArgument, BadPrompt
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.question.generation import generate
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.vectors.prompt_pair import prompt_pair

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
