"""Columns of the tables of the trace of norms, and of what a lens reads."""

from steerscope.analysis.results.schema import Frames

_NUMBERS = {
    "value": ("mean over prompts and positions", "said by the quantity"),
    "low": ("lower end of the interval over prompts", "as value"),
    "high": ("upper end of the interval over prompts", "as value"),
    "control": ("mean of the same quantity for random vectors of equal norm", "as value"),
    "control_low": ("2.5th percentile over the random vectors", "as value"),
    "control_high": ("97.5th percentile over the random vectors", "as value"),
}
_WHERE = (
    "injected: positions that the vector is added to (rows of zeros left out); later: those after the first of "
    "them that are not injected",
    "",
)

LENS_TABLES: Frames = {
    "lens": {
        "run": ("clean, steered (at the given coefficient), or at infinity", ""),
        "layer": ("the stream before this layer; the number of layers for the final one", ""),
        "where": ("injected positions, or those after the first of them that are not injected (later)", ""),
        "quantity": (
            "entropy of what the lens predicts; kl_final: KL of the run's final prediction from it; kl_clean: "
            "its KL from the clean run's at "
            "the same layer; agreement: share of positions whose most probable token is the final one; "
            "neighbours: Jensen-Shannon "
            "divergence between neighbouring positions; committed: mean layer from which on the most probable "
            "token stays",
            "",
        ),
        "value": ("mean over prompts", "nats, a share or a layer"),
        "low": ("lower end of its interval over prompts", "as value"),
        "high": ("upper end of its interval over prompts", "as value"),
    },
    "tokens": {
        "prompt": ("number of the prompt, from 0", ""),
        "run": ("as in lens", ""),
        "layer": ("as in lens", ""),
        "position": ("in the prompt, from 0", ""),
        "token": ("the token that stands there", ""),
        "top": ("the most probable next token, through the lens", ""),
        "entropy": ("of the prediction there", "nats"),
        "kl_final": ("KL of the run's final prediction from it", "nats"),
        "kl_clean": ("its KL from the clean run's at the same layer", "nats"),
    },
}

TRACE: Frames = {
    "stream": {
        "layer": ("layer of the norm; the number of layers for the final one", ""),
        "norm": ("what reads the normalized stream: attention, mlp, or final for the unembedding", ""),
        "where": _WHERE,
        "quantity": (
            "clean_norm, steered_norm: length of the stream; relative_norm: length of what was injected over the clean "
            "stream's; rest, vector, response: share of the normalized steered stream that is the clean "
            "stream, the vector, "
            "and what nodes wrote differently because of it (they add up to 1); scale_ratio: what the norm divides by, "
            "steered over clean; cosine: between the steered stream and the vector; angle, stretch: by how "
            "many degrees the "
            "injection turns the stream, and by what factor it lengthens it",
            "",
        ),
        **_NUMBERS,
    },
    "positions": {
        "prompt": ("number of the prompt, from 0", ""),
        "position": ("in the prompt, from 0", ""),
        "token": ("the token that stands there", ""),
        "where": _WHERE,
        "layer": ("layer of the norm; the number of layers for the final one", ""),
        "norm": ("what reads the normalized stream", ""),
        "clean_norm": ("length of the clean stream", ""),
        "steered_norm": ("length of the steered stream", ""),
        "relative_norm": ("length of what was injected there over the clean stream's", ""),
        "rest": ("share of the normalized steered stream that is the clean stream", ""),
        "vector": ("share that is the vector", ""),
        "response": ("share that nodes wrote because of it", ""),
        "scale_ratio": ("what the norm divides by, steered over clean", ""),
        "cosine": ("between the steered stream and the vector (0 where none is)", ""),
        "angle": ("by how much the injection turns the stream", "degrees"),
        "stretch": ("by what factor it lengthens it", ""),
    },
    "nodes": {
        "layer": ("layer of the node", ""),
        "node": ("head (L5H3, its z) or MLP (L5M)", ""),
        "where": _WHERE,
        "quantity": (
            (
                "clean_norm, steered_norm: length of the node's output; ratio: steered over clean; angle: by how "
                "many degrees it turns"
            ),
            "",
        ),
        **_NUMBERS,
    },
    **LENS_TABLES,
}
