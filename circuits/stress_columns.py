"""What the tables of `stress` hold."""

from steerscope.analysis.results.schema import Column, Frames

VECTOR = Column("what is injected", role="label")
BESIDE = Column("the vector that it is a random one of equal norms beside; empty of a real one", role="label")
COEFFICIENT = Column("what is multiplied with the injection's own coefficient", role="axis")
CIRCUIT = Column("the circuit that is claimed (first), or a rival; found here: one that was looked for", role="label")
VERDICT = Column("unaffected, weaker, rerouted, overwritten, undetermined or mixed, by bounds", role="verdict")
DETAIL = Column("outvoted, silenced, broken, stronger, reversed or narrowed; empty where no finer word fits")
POINT = Column("the verdict by values alone, as if they had no error")
POINT_DETAIL = Column("its finer word")
WHY = Column("conditions that are open (undetermined) or failed (mixed)")
MEANINGS = {
    "rho": ("D under steering over D without", ""),
    "dB": ("change of B", "nats"),
    "neither": ("rise of the share of prompts whose top token is neither answer", ""),
    "P": ("share that is right, under steering", ""),
    "P_0": ("the same without", ""),
    "D": ("what the input decides: log odds on x minus those on x', signed by x's label, under steering", "nats"),
    "D_0": ("the same without", "nats"),
    "B": ("push common to x and x': their mean log odds of the first answer, under steering", "nats"),
    "B_0": ("the same without", "nats"),
    "F0": ("F_0(C_0): share of D that the circuit explains without steering", ""),
    "Fc": ("F_c(C_0): share that it explains under steering", ""),
    "Fcc": ("F_c(C_c): share that the circuit found under steering explains there; missing where none was needed", ""),
    "F0c": ("F_0(C_c): share that that one explains without steering: transfer", ""),
}
MEASURES = {  # names in `Weighed`: without steering, and under it
    "right": ("P_0", "P_c"),
    "decided": ("D_0", "D_c"),
    "pushed": ("B_0", "B_c"),
    "neither": ("", "neither"),
}


def _numbers(*names: str) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for name in names:
        meaning, unit = MEANINGS[name]
        first = name == names[0]
        found[name] = Column(meaning, unit, "estimate" if first else "detail")
        found[f"{name}_low"] = Column("lower end of its interval", unit, "low" if first else "detail")
        found[f"{name}_high"] = Column("upper end of its interval", unit, "high" if first else "detail")
    return found


_SAID = {"verdict": VERDICT, "detail": DETAIL, "point": POINT, "point_detail": POINT_DETAIL, "why": WHY}
_WHOSE = {"vector": VECTOR, "beside": BESIDE, "coefficient": COEFFICIENT}
COLUMNS: Frames = {
    "verdicts": {
        **_WHOSE,
        "circuit": CIRCUIT,
        **_SAID,
        **_numbers(*MEANINGS),
        "jaccard": Column("overlap of the nodes of the circuit and of C_c; no part of the rule"),
        "jaccard_found": Column("overlap of the nodes of the circuits that are found without and under steering"),
        "size": Column("nodes of C_c"),
    },
    "answers": {
        **_WHOSE,
        "measure": Column("right, decided (D), pushed (B) or neither (its rise)", role="measure"),
        "value": Column("mean over prompts", "nats, or a share", "estimate"),
        "low": Column("lower end of its interval", "nats, or a share", "low"),
        "high": Column("upper end of its interval", "nats, or a share", "high"),
    },
    "roles": {
        "vector": Column("what is injected; nothing without steering", role="label"),
        "coefficient": COEFFICIENT,
        "circuit": CIRCUIT,
        "role": Column("role of nodes in it, or the whole circuit", role="label"),
        "nodes": Column("the role's nodes"),
        "completeness": Column("share of D that is lost when these nodes alone carry x'", role="estimate"),
        "low": Column("lower end of its interval", role="low"),
        "high": Column("upper end of its interval", role="high"),
        "share": Column("the same over what is lost with the whole circuit"),
    },
    "edges": {
        "vector": Column("what is injected; nothing without steering", role="label"),
        "coefficient": COEFFICIENT,
        "circuit": CIRCUIT,
        "sender": Column("node that writes; input for what x and x' differ in", role="label"),
        "receiver": Column("input that reads; k and v count key-value heads", role="label"),
        "lost": Column("share of D that is lost when this claimed edge alone carries x'", role="estimate"),
        "low": Column("lower end of its interval", role="low"),
        "high": Column("upper end of its interval", role="high"),
    },
    "looks": {
        "vector": Column("what is injected; nothing without steering", role="label"),
        "coefficient": COEFFICIENT,
        "circuit": CIRCUIT,
        "node": Column("head of the circuit", role="node"),
        "layer": Column("its layer", role="layer"),
        "head": Column("its number in the layer", role="head"),
        "role": Column("its role", role="label"),
        "place": Column("named place of the prompt, or the first position", role="label"),
        "attention": Column("mean attention from the last position to it, on x", role="estimate"),
        "low": Column("lower end of its interval", role="low"),
        "high": Column("upper end of its interval", role="high"),
    },
    "templates": {
        **_WHOSE,
        "circuit": CIRCUIT,
        "template": Column("text that prompts were made of", role="label"),
        "prompts": Column("how many are of it"),
        **_SAID,
        **_numbers("rho", "D", "D_0", "F0", "Fc"),
    },
}
