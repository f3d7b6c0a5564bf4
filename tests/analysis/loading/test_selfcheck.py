"""Models that are broken on purpose, each in one assumption, and the sentence that names it."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import native
from torch import Tensor

from steerscope.analysis.engine import run as engine
from steerscope.analysis.errors import UnsupportedModel
from steerscope.analysis.loading import selfcheck as module
from steerscope.analysis.loading.loading import load
from steerscope.analysis.loading.selfcheck import TOLERANCE, selfcheck
from steerscope.analysis.model.models import Model


def test_every_architecture_passes(every_architecture: Model) -> None:
    errors = selfcheck(every_architecture)
    assert len(errors) > 20
    assert max(errors.values()) < TOLERANCE[torch.float32] / 10, errors


def test_trained_models_pass(real_model: Model) -> None:
    assert max(selfcheck(real_model).values()) < TOLERANCE[torch.float32]


def test_half_and_double_precision_pass(small_models: Any) -> None:
    for dtype in ("float64", "bfloat16"):
        load(small_models.folder("llama"), dtype=dtype)


def test_it_takes_milliseconds(small_model: Model) -> None:
    selfcheck(small_model)
    start = time.process_time()
    selfcheck(small_model)
    assert time.process_time() - start < 1


def after(module: Any, change: Callable[[Tensor], Tensor]) -> None:
    """Changes what a module gives, for good."""

    def hook(module: Any, args: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    module.register_forward_hook(hook)


def lose_edits(component: Any) -> None:
    """What the component's hook gives back is thrown away; what it got goes on into the stream."""
    inner: list[Any] = []
    component.original_component.register_forward_hook(lambda module, args, out: inner.append(out))
    component.register_forward_hook(lambda module, args, out: inner.pop())


def lose_edits_of_the_mlp(bridge: Any) -> None:
    lose_edits(bridge.blocks[1].mlp)


def lose_edits_of_attention(bridge: Any) -> None:
    lose_edits(bridge.blocks[0].attn)


def add_to_the_stream(bridge: Any) -> None:
    after(bridge.blocks[0].hook_out, lambda x: x + 0.1)


def normalize_after_the_block(bridge: Any) -> None:
    after(bridge.blocks[1].original_component, lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]))


def add_between_blocks(bridge: Any) -> None:
    after(bridge.blocks[1].hook_in, lambda x: x + 0.1)


def add_to_z(bridge: Any) -> None:
    after(bridge.blocks[1].attn.o.hook_in, lambda z: z + 0.1)


def add_a_second_bias(bridge: Any) -> None:
    after(bridge.blocks[1].attn.o.original_component, lambda x: x + 0.1)


def couple_rows(bridge: Any) -> None:
    after(bridge.ln_final, lambda x: 2 * x - x.mean(0, keepdim=True))


def couple_positions(bridge: Any) -> None:
    after(bridge.ln_final, lambda x: x - x.mean(1, keepdim=True))


def cap_the_logits(bridge: Any) -> None:
    after(bridge.original_model, lambda logits: torch.tanh(logits))


def change_the_final_stream(bridge: Any) -> None:
    after(bridge.unembed.hook_in, lambda x: x + 0.1)


@pytest.mark.parametrize(
    ("break_it", "assumption"),
    [
        (lose_edits_of_the_mlp, r"resid_post = resid_pre \+ attn_out \+ mlp_out, while mlp_out is edited"),
        (lose_edits_of_attention, "the MLP reads the stream that attention wrote to, while attn_out is edited"),
        (add_to_the_stream, r"resid_post = resid_pre \+ attn_out \+ mlp_out "),
        (normalize_after_the_block, r"resid_post = resid_pre \+ attn_out \+ mlp_out "),
        (add_between_blocks, "each block reads what the one before it wrote"),
        (add_to_z, "a head's z is its pattern times its values"),
        (add_a_second_bias, "heads' outputs and bias add up to attn_out"),
        (couple_rows, "rows of a batch do not influence each other"),
        (couple_positions, "right padding does not change earlier positions"),
        (cap_the_logits, "logits are the unembedding of the normalized stream"),
        (change_the_final_stream, "the unembedding reads the normalized stream"),
    ],
)
def test_a_broken_assumption_is_named(break_it: Callable[[Any], None], assumption: str) -> None:
    bridge = native("native_with_mlp")
    load(bridge, name="toy")
    break_it(bridge)
    with pytest.raises(UnsupportedModel, match=rf"^toy .* breaks the assumption that {assumption}.*relative error"):
        load(bridge, name="toy")
    assert load(bridge, name="toy", selfcheck=False).name == "toy"


def test_an_mlp_that_reads_another_stream_is_named(small_models: Any) -> None:
    wrong = dataclasses.replace(small_models["gpt2"], parallel=True)
    with pytest.raises(UnsupportedModel, match="the MLP reads the stream that attention wrote to"):
        selfcheck(wrong)


def test_logits_that_are_not_the_checkpoints_are_named(small_model: Model) -> None:
    with pytest.raises(UnsupportedModel, match="logits equal the checkpoint's own"):
        selfcheck(small_model, lambda ids: model_logits(small_model, ids) + 0.01)
    selfcheck(small_model, lambda ids: model_logits(small_model, ids))


def model_logits(model: Model, ids: Tensor) -> Tensor:
    return model.bridge(ids)  # type: ignore[no-any-return]


def test_a_wavefront_that_is_wrong_is_named(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    right = engine.run

    def wrong(*args: Any, **options: Any) -> Any:
        for chunk, readout in right(*args, **options):
            yield chunk, dataclasses.replace(readout, logits=readout.logits.flip(0))  # type: ignore[union-attr]

    monkeypatch.setattr(module, "run", wrong)
    with pytest.raises(UnsupportedModel, match="the wavefront equals plain passes"):
        selfcheck(small_model)


def test_not_a_number_is_refused() -> None:
    bridge = native("native_attention_only")
    with torch.no_grad():
        bridge.blocks[1].attn.W_O[0, 0, 0] = float("nan")
    with pytest.raises(UnsupportedModel, match="relative error inf"):
        load(bridge, name="toy")


def test_parts_that_cannot_be_run_are_refused_in_a_sentence() -> None:
    bridge = native("native_with_mlp")

    def fail(module: Any, args: Any) -> None:
        raise TypeError("missing argument: residual\nand a long traceback")

    bridge.blocks[0].mlp.register_forward_pre_hook(fail)
    with pytest.raises(
        UnsupportedModel,
        match=r"^toy .* cannot be checked \(TypeError: missing argument: residual\); the analysis assumes",
    ):
        load(bridge, name="toy")


def test_a_query_whose_edits_are_lost_is_refused(small_model: Model) -> None:
    bridge = native("native_with_mlp")
    for block in bridge.blocks:
        lose_edits(block.attn.q)
    with pytest.raises(UnsupportedModel, match="a pattern follows an edit of q"):
        load(bridge)
