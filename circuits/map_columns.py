"""What the columns of `map_effect` mean."""

from steerscope.analysis.results.effects import EFFECTS, MEASURE, NODE, NUMBERS
from steerscope.analysis.results.schema import Column, Frame, Frames

AMONG = {  # what a circuit is among sets of its make
    "more": "carries more than other sets of its make (after Holm over circuits), and a share told from zero",
    "less": "carries less than other sets of its make (after Holm over circuits)",
    "alike": "not told from other sets of its make",
    "cannot tell": "the smallest p that could come out is above alpha: too few sets of its make, or none",
    "undefined": "the injection reaches no node of it, or its whole effect is not told from zero",
}
TESTS = {
    "joint": "the share that the tested nodes carry, patched at once",
    "carriers": "how many nodes are told from noise",
    "sum": "the sum of single nodes' shares, which is no share",
}
MATCHED = ("layer and kind", "layer, kind and size")
CIRCUIT: Frame = {"circuit": Column("name of the circuit", role="label")}
SHARES: Frame = {
    "share_low": Column("lower end of the interval of the share over groups of prompts"),
    "share_high": Column("upper end of the interval of the share over groups of prompts"),
}
P: Frame = {
    "p": Column("that sets of its make have as much or more; 1 where nothing was tested"),
    "p_holm": Column("the same after Holm"),
}
LEAST_P: Frame = {"least": Column("the smallest p that could have come out")}
COLUMNS: Frames = {
    "circuits": {
        **CIRCUIT,
        **MEASURE,
        "among": Column("; ".join(f"{name}: {what}" for name, what in AMONG.items())),
        "p_more": Column(
            "that sets of its make carry as much or more: the smaller p of joint share and sum, times two, after Holm "
            "over circuits"
        ),
        "p_fewer": Column("that sets of its make carry as much or less, likewise"),
        "least": Column("the smallest p_more that could have come out, before Holm"),
        "nodes": Column("nodes of the circuit"),
        "inside": Column("of these, those that the injection can reach"),
        "unreached": Column("of these, those before it, at which nothing is defined"),
        **NUMBERS,
        **SHARES,
    },
    "tests": {
        **CIRCUIT,
        **MEASURE,
        "test": Column("; ".join(f"{name}: {what}" for name, what in TESTS.items()), role="label"),
        "matched": Column("what other sets have in common with it: as many nodes of every such kind", role="label"),
        "tested": Column("nodes that have others of their kind; what has none is left out"),
        "value": Column("of the circuit: a share, or a number of nodes", role="estimate"),
        "expected": Column("mean over other sets"),
        "others_low": Column("2.5th percentile over other sets"),
        "others_high": Column("97.5th percentile over other sets"),
        **P,
        "p_below": Column("that sets of its make have as much or less"),
        "p_below_holm": Column("the same after Holm"),
        **LEAST_P,
        "sets": Column(
            "other sets that stand behind it: all of them, or draws; of counts, how many there are (or 10^15)"
        ),
    },
    "roles": {
        **CIRCUIT,
        "role": Column("of the circuit", role="label"),
        **MEASURE,
        "nodes": Column("nodes of the role"),
        "inside": Column("of these, those that the injection can reach"),
        **{name: NUMBERS[name] for name in ("effect", "low", "high", "share")},
        **SHARES,
        **P,
        **LEAST_P,
        "said": Column(
            "tested: by the sum of its nodes' shares, Holm over the circuit's roles; described: too few nodes"
        ),
    },
    "ranks": {
        **CIRCUIT,
        **MEASURE,
        "nodes": Column("nodes of the circuit that it scores and the injection can reach"),
        "kendall": Column(
            "rank correlation of the sizes of the effect and of the circuit's own scores", role="estimate"
        ),
        "p": Column("that permutations of the scores within layers agree as much or more"),
        **LEAST_P,
    },
    "nodes": {
        **CIRCUIT,
        **NODE,
        "role": Column("of the node in the circuit; several are joined", role="label"),
        "reached": Column("whether the injection can reach it"),
        **MEASURE,
        **{name: NUMBERS[name] for name in ("effect", "low", "high", "share", "verdict")},
    },
    "edges": {
        **CIRCUIT,
        "sender": Column("node, or input", role="label"),
        "receiver": Column("node, or logits", role="label"),
        "inputs": Column("by which of q, k and v a head reads it, where that is claimed"),
        "score": Column("the circuit's own: its size, summed over these inputs; missing where it gives none"),
        **MEASURE,
        "effect": Column(
            "of the direct path from sender to receiver alone, patched exactly; missing where it was not, or where the "
            "injection cannot reach",
            "{metric}",
            "estimate",
        ),
        **{name: NUMBERS[name] for name in ("low", "high", "share")},
    },
    "overlap": {
        **CIRCUIT,
        "claimed": Column("edges that it claims and the injection can reach, those out of the input left out"),
        "tested": Column("of these, those between layers and kinds that have others"),
        "shared": Column(
            "of the claimed ones, how many are among as many strongest edges of the effect", role="estimate"
        ),
        "shared_tested": Column("of the tested ones, how many are"),
        "expected": Column("how many are on average, of circuits of the same profile", role="reference"),
        "p": Column("that such a circuit has as many or more"),
        "least": Column("the smallest p that could have come out"),
    },
    "effects": EFFECTS,
    "targeted": {
        **CIRCUIT,
        "at": Column(
            "nothing: the clean run; whole: the steered run; circuit, outside, a role: the clean run with these nodes "
            "set to what they write in the steered one",
            role="label",
        ),
        "scale": Column(
            "as it is; or equal KL: the change of every node times one factor, so that it disturbs as the whole does",
            role="label",
        ),
        "factor": Column("that factor"),
        "nodes": Column("how many are set"),
        "effect": Column("mean over prompts", "{metric}", "estimate"),
        "low": Column("lower end of the interval over groups of prompts", "{metric}", "low"),
        "high": Column("upper end of the interval over groups of prompts", "{metric}", "high"),
        "share": Column("effect over the whole effect", role="share"),
        "reference": Column(
            "the same of other sets of its make, mean over those that have it", "{metric}", "reference"
        ),
        "reference_low": Column("smallest of these sets", "{metric}", "reference_low"),
        "reference_high": Column("largest of these sets", "{metric}", "reference_high"),
        "kl": Column("KL(run || clean), mean over scored positions and prompts", "nats"),
        "kl_low": Column("lower end of the interval over groups of prompts", "nats"),
        "kl_high": Column("upper end of the interval over groups of prompts", "nats"),
        "task": Column(
            "log odds of the right answer in the circuit's task, with the same nodes set by the same factor", "nats"
        ),
        "task_reference": Column("the same with other sets of its make, mean over them", "nats"),
        "task_low": Column("lower end of the interval over prompts of the task", "nats"),
        "task_high": Column("upper end of the interval over prompts of the task", "nats"),
    },
}
