"""The run at infinity against runs at huge coefficients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import native
from torch import Tensor

from steerscope.analysis.breakdown.limit import limit
from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import Readout, measure
from steerscope.analysis.errors import BadInjection, UnsupportedModel
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.model.positions import Layout
from steerscope.analysis.question.experiment import Edits
from steerscope.analysis.question.injection import Injection, compose
from steerscope.analysis.vectors.vector import SteeringVector

PROMPTS = [[3, 14, 15, 9, 26, 5, 35, 8], [2, 71, 82, 81, 8]]


def log_probabilities(model: Model, edits: Any) -> Tensor:
    """Of all prompts at all positions, `[position, vocab]`."""
    positions = [range(len(prompt)) for prompt in PROMPTS]

    def rows(readout: Readout) -> Tensor:
        assert readout.logits is not None
        values = readout.logits.double().log_softmax(-1)
        out = torch.zeros(len(readout.variants), 8, model.d_vocab, dtype=torch.float64)
        out[readout.row, readout.position] = values
        return out

    variants = [Variant(p, tuple(edits[p])) for p in range(len(PROMPTS))]
    return measure(model, PROMPTS, variants, positions, rows)


def injection(model: Model, site: str, layer: int, coefficient: float = 1.0) -> Injection:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, model.d_model, generator=generator)
    vector = SteeringVector(values, Site(site, layer), {"recipe": "given"})
    return Injection(vector, coefficient, positions=(1, 3))


def finite(model: Model, given: Injection, coefficient: float) -> Tensor:
    given = replace(given, coefficient=coefficient)
    return log_probabilities(model, [compose(given, Layout(len(prompt))) for prompt in PROMPTS])


@pytest.fixture(scope="module")
def exact_models(small_models: Any) -> Any:
    kept: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in kept:
            source = native(name).double() if "native" in name else small_models.folder(name)
            kept[name] = load(source, name=name, dtype=None if "native" in name else "float64")
        return kept[name]

    return get


def limited(model: Model, injections: list[Injection], lengths: list[int], sign: int = 1) -> Edits:
    added = tuple(compose(injections, Layout(length, model.bos is not None)) for length in lengths)
    return limit(model, added, lengths, sign)


NAMES = [
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "native_attention_only",
    "native_with_mlp",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sign", [1, -1])
def test_it_is_what_a_coefficient_of_a_million_comes_to(exact_models: Any, name: str, sign: int) -> None:
    model = exact_models(name)
    for site in ("resid_pre", "attn_out", *(["mlp_out"] if model.has_mlp else [])):
        given = injection(model, site, 1)
        edits = limited(model, [given], [len(p) for p in PROMPTS], sign)
        asymptote = log_probabilities(model, edits)
        error = [(finite(model, given, sign * c) - asymptote).abs().max().item() for c in (1e3, 1e6)]
        assert error[1] < 1e-4
        assert error[1] < error[0] / 100 or error[0] < 1e-9  # as one over the coefficient
        assert (finite(model, given, sign * 1.0) - asymptote).abs().max() > 1e-2


def test_trained_models_too(real_model: Model) -> None:
    given = injection(real_model, "resid_pre", 2)
    edits = limited(real_model, [given], [len(p) for p in PROMPTS])
    gap = finite(real_model, given, 1e4) - log_probabilities(real_model, edits)
    assert gap.abs().max() < 2e-2


def test_single_precision_gives_the_same(small_models: Any, exact_models: Any) -> None:
    for name in ("gpt2", "llama"):
        lengths = [len(p) for p in PROMPTS]
        given = injection(small_models[name], "resid_pre", 0)
        single, double = (
            log_probabilities(model, limited(model, [given], lengths))
            for model in (small_models[name], exact_models(name))
        )
        torch.testing.assert_close(single, double, rtol=0, atol=1e-5)


def test_a_row_of_zeros_is_left_alone_and_injections_at_one_position_add_up(small_model: Model) -> None:
    values = torch.zeros(2, small_model.d_model)
    values[0, :3] = torch.tensor([1.0, -2.0, 3.0])
    one = Injection(SteeringVector(values, Site("resid_pre", 0)), 1.0, positions=(0, 2))
    [edits] = limited(small_model, [one], [5])
    assert all(isinstance(edit, Edit) and edit.positions == (0,) for edit in edits)
    twice = limited(small_model, [replace(one, coefficient=2.0), replace(one, coefficient=-1.0)], [5])
    assert torch.equal(twice[0][0].value, edits[0].value)  # type: ignore[arg-type]
    against = limited(small_model, [one, replace(one, coefficient=-1.0)], [5])
    assert against == ((),)


def test_what_has_no_limit_is_refused(small_model: Model, small_models: Any) -> None:
    bare = small_models["native_without_norm"]
    with pytest.raises(UnsupportedModel, match="has no norm"):
        limited(bare, [injection(bare, "resid_pre", 0)], [8])
    two = [injection(small_model, "resid_pre", 0), injection(small_model, "resid_pre", 1)]
    with pytest.raises(BadInjection, match="L0.resid_pre, L1.resid_pre; expected one layer"):
        limited(small_model, two, [8])
