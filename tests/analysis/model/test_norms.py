"""Norms as equations, against the modules and the streams that they really read."""

import torch
from reference import plain_pass
from torch.testing import assert_close

from steerscope.analysis.model.models import Model
from steerscope.analysis.model.norms import readers, stream

PROMPT = [3, 14, 15, 9, 26, 5]


@torch.no_grad()
def test_a_norm_is_its_equation_on_the_stream_that_it_reads(every_architecture: Model) -> None:
    model = every_architecture
    seen = plain_pass(model, PROMPT)
    hooked: dict[str, torch.Tensor] = {}
    names = [n for n in model.bridge.hook_dict if n.endswith(("ln1.hook_in", "ln2.hook_in", "ln_final.hook_in"))]
    hooks = [(n, lambda x, hook, n=n: hooked.__setitem__(n, x[0])) for n in names]
    model.bridge.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=hooks)
    found = readers(model)
    assert bool(found) == (model.norm != "none")
    for reader in found:
        read = stream(model, reader, seen)
        attribute = {"attention": "ln1", "mlp": "ln2"}.get(reader.name)
        where = f"blocks.{reader.layer}.{attribute}" if attribute else "ln_final"
        module = model.bridge.blocks[reader.layer] if attribute else model.bridge
        module = getattr(module, attribute or "ln_final")
        if f"{where}.hook_in" in hooked:
            assert_close(read, hooked[f"{where}.hook_in"], rtol=1e-4, atol=1e-5)
        assert_close(reader.norm(read), module(read[None])[0], rtol=1e-4, atol=1e-5)
        parts = [read * 0.3, read.flip(0), read * 0.7 - read.flip(0)]
        scale = reader.norm.scale(read)
        whole = sum(reader.norm.part(part, scale) for part in parts) + reader.norm.bias
        assert_close(whole, module(read[None])[0], rtol=1e-4, atol=1e-5)
