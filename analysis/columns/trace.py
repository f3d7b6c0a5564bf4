"""Columns of the tables of the trace of norms, and of what a lens reads."""

from steerscope.analysis.results.schema import Column, Frames

_NUMBERS = {
    "value": Column("mean over prompts and positions", "said by the quantity", "estimate"),
    "low": Column("lower end of the interval over prompts", "as value", "low"),
    "high": Column("upper end of the interval over prompts", "as value", "high"),
    "control": Column("mean of the same quantity for random vectors of equal norm", "as value", "reference"),
    "control_low": Column("2.5th percentile over the random vectors", "as value", "reference_low"),
    "control_high": Column("97.5th percentile over the random vectors", "as value", "reference_high"),
}
_WHERE = Column(
    "injected: positions that the vector is added to (rows of zeros left out); later: those after the first of "
    "them that are not injected",
    role="label",
)

LENS_TABLES: Frames = {
    "lens": {
        "run": Column("clean, steered (at the given coefficient), or at infinity"),
        "layer": Column("the stream before this layer; the number of layers for the final one", role="layer"),
        "where": Column(
            "injected positions, or those after the first of them that are not injected (later)", role="label"
        ),
        "quantity": Column(
            "entropy of what the lens predicts; kl_final: KL of the run's final prediction from it; kl_clean: "
            "its KL from the clean run's at "
            "the same layer; agreement: share of positions whose most probable token is the final one; "
            "neighbours: Jensen-Shannon "
            "divergence between neighbouring positions; committed: mean layer from which on the most probable "
            "token stays",
            role="label",
        ),
        "value": Column("mean over prompts", "nats, a share or a layer", "estimate"),
        "low": Column("lower end of its interval over prompts", "as value", "low"),
        "high": Column("upper end of its interval over prompts", "as value", "high"),
    },
    "tokens": {
        "prompt": Column("number of the prompt, from 0"),
        "run": Column("as in lens"),
        "layer": Column("as in lens", role="layer"),
        "position": Column("in the prompt, from 0", role="axis"),
        "token": Column("the token that stands there"),
        "top": Column("the most probable next token, through the lens"),
        "entropy": Column("of the prediction there", "nats"),
        "kl_final": Column("KL of the run's final prediction from it", "nats"),
        "kl_clean": Column("its KL from the clean run's at the same layer", "nats"),
    },
}

TRACE: Frames = {
    "stream": {
        "layer": Column("layer of the norm; the number of layers for the final one", role="layer"),
        "norm": Column("what reads the normalized stream: attention, mlp, or final for the unembedding"),
        "where": _WHERE,
        "quantity": Column(
            "clean_norm, steered_norm: length of the stream; relative_norm: length of what was injected over the clean "
            "stream's; rest, vector, response: share of the normalized steered stream that is the clean "
            "stream, the vector, "
            "and what nodes wrote differently because of it (they add up to 1); scale_ratio: what the norm divides by, "
            "steered over clean; cosine: between the steered stream and the vector; angle, stretch: by how "
            "many degrees the "
            "injection turns the stream, and by what factor it lengthens it",
            role="label",
        ),
        **_NUMBERS,
    },
    "positions": {
        "prompt": Column("number of the prompt, from 0"),
        "position": Column("in the prompt, from 0", role="axis"),
        "token": Column("the token that stands there"),
        "where": _WHERE,
        "layer": Column("layer of the norm; the number of layers for the final one", role="layer"),
        "norm": Column("what reads the normalized stream"),
        "clean_norm": Column("length of the clean stream"),
        "steered_norm": Column("length of the steered stream"),
        "relative_norm": Column("length of what was injected there over the clean stream's"),
        "rest": Column("share of the normalized steered stream that is the clean stream"),
        "vector": Column("share that is the vector"),
        "response": Column("share that nodes wrote because of it"),
        "scale_ratio": Column("what the norm divides by, steered over clean"),
        "cosine": Column("between the steered stream and the vector (0 where none is)"),
        "angle": Column("by how much the injection turns the stream", "degrees"),
        "stretch": Column("by what factor it lengthens it"),
    },
    "nodes": {
        "layer": Column("layer of the node", role="layer"),
        "node": Column("head (L5H3, its z) or MLP (L5M)", role="node"),
        "where": _WHERE,
        "quantity": Column(
            (
                "clean_norm, steered_norm: length of the node's output; ratio: steered over clean; angle: by how "
                "many degrees it turns"
            ),
            role="label",
        ),
        **_NUMBERS,
    },
    **LENS_TABLES,
}
