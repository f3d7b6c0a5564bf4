"""Columns of the tables of a trained lens."""

from steerscope.analysis.results.schema import Frames

LENS: Frames = {
    "layers": {
        "layer": ("the lens reads the stream before this layer", ""),
        "lens": ("tuned, or logit for the lens without training", ""),
        "kl": ("KL(model's prediction || lens's prediction) on held-out windows, mean over positions", "nats"),
        "low": ("lower end of its interval over windows", "nats"),
        "high": ("upper end of its interval over windows", "nats"),
        "agreement": ("share of positions at which both name the same first token", ""),
    },
    "steps": {
        "step": ("step of the training, from 1", ""),
        "loss": ("KL summed over layers, on the windows of the step", "nats"),
    },
}
