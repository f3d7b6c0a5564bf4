"""What decides a toy: its task, sizes, start and training. The shipped ones, by name.

Needs no torch. The sizes, and the starts that make small models leave the plateau, were found by trial: with
embeddings as small as the other matrices most runs stay at chance.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Positive, Seed, Share, Within, gated

Task = Literal["ioi", "induction"]


@gated
@dataclass(frozen=True)
class Recipe:
    """A small attention-only transformer and how it is trained; the same recipe gives the same weights on one machine.

    Attributes:
        task: minimal indirect object identification, or induction (see `tasks`).
        tokens, positions: standard deviations of the embeddings at the start; other matrices start at
            1 / sqrt(d_model), biases at 0.
        rate: learning rate at the top of its schedule: `warmup` steps up, a cosine down to 5%. AdamW, betas .9, .98.
        names: of IOI. shortest, longest: of what induction repeats.
    """

    task: Task
    layers: Annotated[int, Within(1, 4)]
    heads: Annotated[int, Within(1, 16)]
    d_model: Annotated[int, Within(1, 512)]
    d_head: Annotated[int, Within(1, 512)]
    tokens: Positive
    positions: Positive
    rate: Annotated[float, Within(0, 1, open=True)]
    norm: Literal["LN", "RMS"] | None = None
    seed: Seed = 0
    steps: Count = 1000
    batch: Count = 128
    warmup: Count = 100
    weight_decay: Share = 0.1
    names: Annotated[int, Within(2, 40)] = 20
    shortest: Annotated[int, Within(2, 31)] = 5
    longest: Annotated[int, Within(2, 31)] = 15

    def __post_init__(self) -> None:
        if self.shortest > self.longest:
            raise BadArgument(
                f"shortest={self.shortest}, longest={self.longest}; expected the shorter one first; turn them round"
            )


@dataclass(frozen=True)
class Known:
    """A shipped toy.

    Attributes:
        circuit: what carries the answer, in a sentence.
        solved: whether it does its task; one that does not is a control.
    """

    recipe: Recipe
    circuit: str
    solved: bool = True


ONE_LAYER = Recipe("ioi", layers=1, heads=2, d_model=64, d_head=32, tokens=0.25, positions=1.5, rate=3e-3)
START_A = Recipe("ioi", layers=2, heads=1, d_model=32, d_head=32, tokens=1.06, positions=1.06, rate=5e-3)
START_B = replace(START_A, tokens=0.35, positions=2.1)
INDUCTION = Recipe(
    "induction",
    layers=2,
    heads=1,
    d_model=64,
    d_head=64,
    tokens=0.5,
    positions=0.5,
    rate=3e-3,
    batch=32,
    weight_decay=0.01,
)
STARTS: dict[str, Recipe] = {
    "one": ONE_LAYER,
    "a": START_A,
    "b": START_B,
    "unsolved": replace(ONE_LAYER, heads=1, d_head=64),
    "induction": INDUCTION,
    "ln": replace(INDUCTION, norm="LN"),
    "fixed": replace(INDUCTION, shortest=10, longest=10),
}
SHIPPED: dict[str, Known] = {
    "toy-ioi-1x2": Known(
        ONE_LAYER, "Two heads of one layer: one adds both names, the other takes away the one that is repeated."
    ),
    "toy-ioi-1x2-2": Known(
        replace(ONE_LAYER, seed=5), "As toy-ioi-1x2, from another seed; the heads have changed places."
    ),
    "toy-ioi-query": Known(
        replace(START_A, seed=3),
        "Layer 0 tells the last position which name is repeated; by its query, layer 1 chooses where to look.",
    ),
    "toy-ioi-query-2": Known(
        replace(START_A, seed=9), "As toy-ioi-query: by its query, layer 1 looks at the name that is not repeated."
    ),
    "toy-ioi-value": Known(
        replace(START_A, seed=1),
        "At the repeated name, layer 0 looks at the other one and puts it there; layer 1 looks there and moves that.",
    ),
    "toy-ioi-mixed": Known(
        START_A, "Layer 1 looks at the repeated name: for what layer 0 has put there (values), and for the name itself."
    ),
    "toy-ioi-direct": Known(
        replace(START_B, seed=5),
        "No composition: what the repeated name decides goes from layer 0 straight to the logits.",
    ),
    "toy-ioi-unsolved": Known(STARTS["unsolved"], "One head alone did not learn it: a control.", solved=False),
    "toy-induction": Known(
        INDUCTION, "Layer 0 writes each token's predecessor into it; by its key, layer 1 finds what followed before."
    ),
    "toy-induction-ln": Known(
        STARTS["ln"],
        "As toy-induction, with LayerNorm: layer 0 writes each token's predecessor into it, for the keys of layer 1.",
    ),
    "toy-repeat-by-position": Known(
        STARTS["fixed"],
        "A control that looks like induction: the length is always the same, so that one head looks so far back.",
    ),
}
