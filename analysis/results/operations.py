"""What an injection does, in words: of the manifest's `injections`, and so without a model."""

from collections.abc import Mapping, Sequence
from typing import Any

FEW = 3  # sites that are all named

_SAID = {
    "add": "{c:g} {x} ({v})",
    "norm_add": "{c:g} {x} ({v}) at an unchanged norm",
    "set": "component along ({v}) set to {c:g} {x} its norm",
    "clamp": "component along ({v}) kept below {c:g} {x} its norm",
    "scale": "component along ({v}) {x} {c:g}",
    "rotate": "turned by {c:g}° towards ({v})",
}


def said(operation: str, coefficient: float, label: str, times: str = "×") -> str:
    """One injection without its place: `3 × (" wedding" - " ")`, `(refusal) ablated`."""
    if operation == "ablate":
        return f"({label}) ablated" if coefficient == 1 else f"{coefficient:.0%} of ({label}) ablated"
    known = _SAID.get(operation, "{c:g} {x} ({v}) by an operation that is not known here")  # of a later version
    return known.format(c=coefficient, v=label, x=times)


def injected(injections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every injection with its place; those that differ in their site alone are said together."""
    together: dict[tuple[str, str], list[str]] = {}
    for one in injections:
        what = said(one.get("operation", "add"), one["coefficient"], one["vector"]["label"])
        during = one.get("during", "prompt")
        where = one["positions"] if during == "prompt" else f"{one['positions']} and every generated token"
        together.setdefault((what, where), []).append(one["site"])
    return [f"{what} at {_sites(sites)}, {where}" for (what, where), sites in together.items()]


def _sites(sites: Sequence[str]) -> str:
    if len(sites) <= FEW:
        return ", ".join(sites)
    return f"{len(sites)} sites ({sites[0]} to {sites[-1]})"
