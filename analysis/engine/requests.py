"""What may be asked of the engine: every fault of a request is refused before a pass begins."""

from collections.abc import Sequence

from torch import Tensor

from steerscope.analysis.errors import BadArgument, BadNode, BadPrompt
from steerscope.analysis.model.models import HOOKS, Model
from steerscope.analysis.model.nodes import Site

from .edits import Variant


def check_request(
    model: Model,
    prompts: Sequence[Sequence[int]],
    variants: Sequence[Variant],
    reading: Sequence[Sequence[int]],
    sites: Sequence[tuple[str, int]],
) -> None:
    """Refuses prompts, edits, positions and sites that the model does not have.

    Raises:
        BadPrompt: no or empty prompts, too long ones, or tokens that the model does not know.
        BadNode: a site, layer or head that is not there.
        BadArgument: a variant of no prompt, a position outside of its prompt, or a value of the wrong shape.
    """
    _check_prompts(model, prompts, reading)
    for variant in variants:
        if variant.prompt >= len(prompts):
            raise BadArgument(
                f"a variant is of prompt {variant.prompt}, there are {len(prompts)}; expected 0 to "
                f"{len(prompts) - 1}; count from 0"
            )
    _check_edits(model, prompts, variants)
    _check_sites(model, sites)


def _check_prompts(model: Model, prompts: Sequence[Sequence[int]], reading: Sequence[Sequence[int]]) -> None:
    if not prompts or min(map(len, prompts)) == 0:
        raise BadPrompt("the engine got no prompt, or an empty one; expected at least one token each; add some")
    longest = max(map(len, prompts))
    if longest > model.n_ctx:
        raise BadPrompt(
            f"a prompt has {longest} tokens; expected at most the {model.n_ctx} that {model.name} reads; shorten it"
        )
    for token in (min(map(min, prompts)), max(map(max, prompts))):
        if not 0 <= token < model.d_vocab:
            raise BadPrompt(
                f"a prompt has the token id {token}; expected 0 to {model.d_vocab - 1}, those of {model.name}; use its "
                "own tokenizer"
            )
    if len(reading) != len(prompts):
        raise BadArgument(
            f"positions of {len(reading)} prompts to read, there are {len(prompts)}; expected a list for each; give as "
            "many"
        )
    for prompt, positions in zip(prompts, reading, strict=True):
        _check_positions(prompt, positions, "read")


def _check_edits(model: Model, prompts: Sequence[Sequence[int]], variants: Sequence[Variant]) -> None:
    for prompt, edit in {(v.prompt, edit): None for v in variants for edit in (*v.edits, *(v.base or ()))}:
        model.check(edit.site)
        if edit.positions is not None:
            _check_positions(prompts[prompt], edit.positions, f"edited at {edit.site}")
        if isinstance(edit.value, Tensor):
            rows = len(prompts[prompt]) if edit.positions is None else len(edit.positions)
            *given, width = edit.value.shape
            wide = model.width(edit.site)
            narrow = edit.site.name == "pattern" and width <= wide  # further keys count as 0
            if (width != wide and not narrow) or (given and given[0] not in (1, rows)):
                raise BadArgument(
                    f"{edit.operation} at {edit.site} got a value of shape {list(edit.value.shape)}; "
                    f"expected [{wide}] or [{rows}, {wide}]; give one row per edited position"
                )


def _check_sites(model: Model, sites: Sequence[tuple[str, int]]) -> None:
    for name, layer in sites:
        if name not in HOOKS or not 0 <= layer < model.n_layers:
            raise BadNode(
                f"no activation {name!r} at layer {layer} of {model.name}; expected one of "
                f"{', '.join(HOOKS)} at layers 0 to {model.n_layers - 1}; choose one of them"
            )
        if name.startswith("mlp"):
            model.check(Site("mlp_out", layer))


def _check_positions(prompt: Sequence[int], positions: Sequence[int], done: str) -> None:
    wrong = [position for position in positions if not 0 <= position < len(prompt)]
    if wrong:
        raise BadArgument(
            f"position {wrong[0]} is {done} in a prompt of {len(prompt)} tokens; "
            f"expected 0 to {len(prompt) - 1}; count from the front"
        )
