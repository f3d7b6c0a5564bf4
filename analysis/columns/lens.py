"""Columns of the tables of a trained lens."""

from steerscope.analysis.results.schema import Column, Frames

LENS: Frames = {
    "layers": {
        "layer": Column("the lens reads the stream before this layer", role="layer"),
        "lens": Column("tuned, or logit for the lens without training"),
        "kl": Column("KL(model's prediction || lens's prediction) on held-out windows, mean over positions", "nats"),
        "low": Column("lower end of its interval over windows", "nats", "low"),
        "high": Column("upper end of its interval over windows", "nats", "high"),
        "agreement": Column("share of positions at which both name the same first token"),
    },
    "steps": {
        "step": Column("step of the training, from 1"),
        "loss": Column("KL summed over layers, on the windows of the step", "nats"),
    },
}
