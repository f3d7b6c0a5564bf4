"""Proves on this very model, by plain passes over a few tokens, what every analysis relies on.

1. The stream adds up: `resid_post = resid_pre + attn_out + mlp_out`; each block reads the one before.
2. Heads add up: their `z` through `W_O`, plus the bias (through the norm after it, where there is
   one), is `attn_out`; and a head's `z` is its pattern times its values.
3. The MLP and the final norm read the stream that we think they read; the logits are the unembedding
   of the normalized stream.
4. The same equations hold while each site in turn is edited in all layers: an edit that is lost, or
   that reaches a norm only, breaks one of them. A pattern follows what is edited of queries and keys,
   and of its own head's alone.
5. Rows of a batch do not influence each other, and right padding changes nothing to the left. So one pass
   holds all of 4, a row for each site.
6. The wavefront gives what plain hooked passes give.

A model that fails is refused with the name of the assumption; numbers from it would look fine and
mean something else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.run import run
from steerscope.analysis.errors import SteerscopeError, UnsupportedModel
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site

from .folders import first_line

# In double precision some checkpoints still take their softmax in single.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}
EDITED = ("resid_pre", "q", "k", "v", "z", "attn_out", "mlp_out")
ONE = {"the query of one head": "q", "the key of one head": "k"}


@torch.no_grad()
def selfcheck(model: Model, expected: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
    """Relative errors of all equations, by name.

    An architecture whose parts cannot be run one by one is refused as well.

    Args:
        expected: logits of the untouched checkpoint, `[1, pos]` ids -> `[1, pos, vocab]`, where there is one.

    Raises:
        UnsupportedModel: an equation does not hold; the message names it.
    """
    try:
        errors = _errors(model, expected)
    except SteerscopeError:
        raise
    except Exception as error:  # of any type: there are 140 architectures, each with its own code
        raise UnsupportedModel(
            f"{model.name} ({model.architecture}) cannot be checked ({first_line(error)}); the analysis assumes blocks "
            "of attention and MLP that add to one stream, and proves it by running the parts; use another model, or "
            "pass selfcheck=False to look at it all the same"
        ) from error
    _refuse(model, errors)
    return errors


def _errors(model: Model, expected: Callable[[Tensor], Tensor] | None) -> dict[str, float]:
    errors = _Errors()
    generator = torch.Generator().manual_seed(0)
    length = min(7, model.n_ctx)
    ids = torch.randint(0, model.d_vocab, (2, length), generator=generator).to(model.device)
    alone = _pass(model, ids[:1], [None], generator)
    if expected is not None:
        errors.note("logits equal the checkpoint's own", alone["logits"], expected(ids[:1]))
    edited = [None, *(site for site in EDITED if model.has_mlp or site != "mlp_out")]
    edited += [name for name, site in ONE.items() if model.heads(site) > 1]
    seen = _pass(model, ids[:1].expand(len(edited), -1), edited, generator)
    errors.note("rows of a batch do not influence each other", seen["logits"][:1], alone["logits"])
    _equations(model, seen, edited, errors)
    _patterns(model, seen, alone, edited, errors)
    short = max(1, length - 2)
    padded = alone["logits"][:, :short]
    errors.note(
        "right padding does not change earlier positions (it is causal, not bidirectional)",
        padded,
        model.bridge(ids[:1, :short]),
    )
    _refuse(model, errors.worst())  # before the engine, which relies on all of it
    _wavefront(model, ids, errors, generator)
    return errors.worst()


class _Errors:
    """Relative errors of equations, gathered by name where they are computed."""

    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {}

    def note(self, name: str, value: Tensor, expected: Tensor) -> None:
        self.rows([name], value[None], expected[None])

    def rows(self, names: Sequence[str | None], value: Tensor, expected: Tensor) -> None:
        """The same, of each row by itself; rows without a name are left out."""
        if value.shape != expected.shape:
            error = torch.full((len(names),), torch.inf)
        else:
            scale = expected.abs().flatten(1).amax(1).clamp_min(1e-6)
            error = (value - expected).abs_().flatten(1).amax(1) / scale
        for name, one in zip(names, error, strict=True):
            if name is not None:
                self.found.setdefault(name, []).append(one)

    def worst(self) -> dict[str, float]:
        """The largest of each name; infinite where one is not a number."""
        worst = {name: torch.stack(errors).float().max().item() for name, errors in self.found.items()}
        return {name: error if error == error else float("inf") for name, error in worst.items()}


def _pass(model: Model, ids: Tensor, edited: Sequence[str | None], generator: torch.Generator) -> dict[str, Any]:
    """One plain pass; records everything that the equations need.

    Args:
        edited: of each row the site that is edited, in all layers; one of `ONE` of the first head only, and what sees
            it gives the z of the first row, so that nothing else changes.
    """
    seen: dict[str, Any] = {}
    hooks: list[tuple[str, Callable[..., Any]]] = []

    def edit(row: int, heads: int | None = None) -> Callable[[Tensor, Any], Tensor]:
        def hook(x: Tensor, hook: Any) -> Tensor:
            size = x[row].abs().mean()
            noise = torch.randn(x.shape[1:], generator=generator).to(x)
            if heads is not None:
                noise[:, heads:] = 0
            x = x.clone()
            x[row] += noise * torch.where(size > 0, size, 1.0).to(x)
            return x

        return hook

    def put_back(row: int, heads: int) -> Callable[[Tensor, Any], Tensor]:
        def hook(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[row, :, :heads] = x[0, :, :heads]
            return x

        return hook

    def keep(name: str) -> Callable[[Tensor, Any], None]:
        def hook(x: Tensor, hook: Any) -> None:
            seen[name] = x

        return hook

    for layer in range(model.n_layers):
        for row, site in enumerate(edited):
            if site in ONE:
                hooks.append((model.hook(ONE[site], layer), edit(row, 1)))
                hooks.append((model.hook("z", layer), put_back(row, _seeing(model, ONE[site]))))
            elif site is not None:
                hooks.append((model.hook(site, layer), edit(row)))
        for site in ("q", "k", *_recorded(model)):
            hooks.append((model.hook(site, layer), keep(f"{layer}.{site}")))
    hooks.append(("unembed.hook_in", keep("hidden")))
    seen["logits"] = model.bridge.run_with_hooks(ids, fwd_hooks=hooks)
    return seen


def _recorded(model: Model) -> list[str]:
    return ["resid_pre", "v", "pattern", "z", "attn_out", *(["mlp_out"] if model.has_mlp else []), "resid_post"]


def _equations(model: Model, seen: dict[str, Any], edited: Sequence[str | None], errors: _Errors) -> None:
    """Notes the errors of all equations; the one that says what an edited site *was* cannot hold and is left out."""

    def note(site: str | None, name: str, value: Tensor, expected: Tensor) -> None:
        names = [name if row is None else f"{name}, while {row} is edited" for row in edited]
        written = ["z" if row in ONE else row for row in edited]
        kept = [None if site is not None and at == site else name for at, name in zip(written, names, strict=True)]
        errors.rows(kept, value, expected)

    for layer in range(model.n_layers):
        block = model.bridge.blocks[layer]
        resid_pre, v, pattern, z, attn_out, *mlp_out, resid_post = (seen[f"{layer}.{s}"] for s in _recorded(model))
        if layer:
            note(
                "resid_pre", "each block reads what the one before it wrote", resid_pre, seen[f"{layer - 1}.resid_post"]
            )
        values = v.repeat_interleave(model.n_heads // v.shape[2], dim=2)
        note("z", "a head's z is its pattern times its values", z, torch.einsum("bhqk,bkhd->bqhd", pattern, values))
        heads = torch.einsum("bphd,hdm->bpm", z, block.attn.W_O.to(z)) + _bias(block.attn)
        heads = block.ln1_post(heads) if model.post_norm else heads
        note("attn_out", "heads' outputs and bias add up to attn_out", attn_out, heads)
        if mlp_out:
            note(
                "mlp_out",
                "the MLP reads the stream that attention wrote to",
                mlp_out[0],
                _mlp(model, block, resid_pre, attn_out),
            )
            note(None, "resid_post = resid_pre + attn_out + mlp_out", resid_post, resid_pre + attn_out + mlp_out[0])
        else:
            note(None, "resid_post = resid_pre + attn_out", resid_post, resid_pre + attn_out)
    last = seen[f"{model.n_layers - 1}.resid_post"]
    hidden = model.bridge.ln_final(last) if hasattr(model.bridge, "ln_final") else last
    note(None, "the unembedding reads the normalized stream", seen["hidden"], hidden)
    if not model.softcap:
        note(None, "logits are the unembedding of the normalized stream", seen["logits"], model.bridge.unembed(hidden))


def _patterns(
    model: Model, seen: dict[str, Any], alone: dict[str, Any], edited: Sequence[str | None], errors: _Errors
) -> None:
    """Notes whether every pattern follows an edit of queries, and of keys: by more than rounding moves it."""
    for site, other in (("q", "k"), ("k", "q")):
        row = edited.index(site)
        for layer in range(model.n_layers):
            pattern = seen[f"{layer}.pattern"]
            rounding = (pattern[:1] - alone[f"{layer}.pattern"]).abs().max()
            still = (pattern[row] - pattern[0]).abs().max() <= 2 * rounding
            # A query of zeros looks everywhere alike, whatever the keys.
            lost = still & (seen[f"{layer}.{other}"][0] != 0).any()
            error = torch.where(lost, torch.inf, 0.0)
            errors.found.setdefault(f"a pattern follows an edit of {site}", []).append(error)
    for name, site in ONE.items():
        if name in edited:
            row, first = edited.index(name), _seeing(model, site)
            for layer in range(model.n_layers):
                pattern = seen[f"{layer}.pattern"][:, first:]
                errors.note(f"other heads' patterns do not follow {name}", pattern[row], pattern[0])


def _seeing(model: Model, site: str) -> int:
    """How many heads the first one of a site is seen by: several share a key."""
    return model.n_heads // model.heads(site)


def _mlp(model: Model, block: Any, resid_pre: Tensor, attn_out: Tensor) -> Tensor:
    x = resid_pre if model.parallel else resid_pre + attn_out
    norm = getattr(block, "ln2", None) or (getattr(block, "ln1", None) if model.parallel else None)
    x = block.mlp(norm(x) if norm is not None else x)
    return block.ln2_post(x) if model.post_norm else x  # type: ignore[no-any-return]


def _bias(attention: Any) -> Tensor | float:
    try:
        bias = attention.b_O
    except AttributeError:
        return 0.0
    return 0.0 if bias is None else bias


def _wavefront(model: Model, ids: Tensor, errors: _Errors, generator: torch.Generator) -> None:
    """The engine, on two prompts of different lengths, against plain hooked passes, a row for each variant."""
    prompts = [ids[0].tolist(), ids[1, : max(1, ids.shape[1] - 2)].tolist()]
    layer = model.n_layers - 1
    value = torch.randn(model.d_model, generator=generator).to(model.device, model.dtype)
    change = torch.randn(model.d_head, generator=generator).to(model.device, model.dtype)
    added = Edit(Site("resid_pre", layer // 2), "add", value, (0,))
    put = Edit(Site("z", layer, model.n_heads - 1), "set", change)
    variants = [Variant(p, edits) for p in (0, 1) for edits in ((), (added,), (added, put))]
    # At the last position alone, so that the engine computes the others once for all rows.
    late = [Edit(Site("z", 0, model.n_heads - 1), "set", change, (len(prompt) - 1,)) for prompt in prompts]
    variants += [Variant(p, (edit,)) for p, edit in enumerate(late)]
    plain: dict[int, Tensor] = {}
    for prompt, tokens in enumerate(prompts):
        own = [index for index, variant in enumerate(variants) if variant.prompt == prompt]

        def rows(edit: Edit, own: list[int] = own) -> list[int]:
            return [row for row, index in enumerate(own) if edit in variants[index].edits]

        hooks = [
            (model.hook("resid_pre", layer // 2), _written((rows(added), 0), value, add=True)),
            (model.hook("z", 0), _written((rows(late[prompt]), -1, -1), change)),
            (model.hook("z", layer), _written((rows(put), slice(None), -1), change)),
        ]
        batch = torch.tensor([tokens] * len(own), device=model.device)
        plain |= dict(zip(own, model.bridge.run_with_hooks(batch, fwd_hooks=hooks)[:, -1], strict=True))
    for chunk, readout in run(model, prompts, variants):
        assert readout.logits is not None
        errors.note("the wavefront equals plain passes", readout.logits, torch.stack([plain[i] for i in chunk]))


def _written(index: tuple[Any, ...], value: Tensor, add: bool = False) -> Callable[[Tensor, Any], Tensor]:
    """A hook that writes a value at a place, or adds it."""

    def hook(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        x[index] = x[index] + value if add else value
        return x

    return hook


def _refuse(model: Model, errors: dict[str, float]) -> None:
    limit = TOLERANCE.get(model.dtype, 1e-4)
    broken = {name: error for name, error in errors.items() if error > limit}
    if broken:
        name, error = next(iter(broken.items()))
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise UnsupportedModel(
            f"{model.name} ({model.architecture}) breaks the assumption that {name}{more}: relative error {error:.2g}, "
            f"expected at most {limit:g}; steerscope's numbers would be wrong on it, so it is refused; use another "
            "model, or pass selfcheck=False to look at it all the same"
        )
