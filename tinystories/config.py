"""Everything that decides what is trained and how, in one frozen record.

Needs no torch, so that a command line can show and check the settings at once.
"""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Positive, Seed, Share, Within, gated

PARAMETERS, NUMBERS = 50_000_000, 2**28  # the most that a small model has, and that a step holds at once


@gated
@dataclass(frozen=True)
class TrainConfig:
    """All that decides what is trained, and how."""

    text: tuple[str, ...]
    """Files with the stories to learn from; their held-out part gives the reported loss. Without any, the grammar's
    topic stories are the text."""
    out: str
    """Folder for the finished model; checkpoints stand beside it until the end."""
    start: str | None = None
    """A shipped model, or a folder that was trained here, whose weights and tokenizer the run begins with."""
    text_source: str = "unstated"
    """What the text is and under which licence; goes into the card."""
    weaker_text: tuple[str, ...] = ()
    """Files with more, but weaker text, for quantity; never held out, hardly used in the last third."""
    weaker_source: str = "unstated"
    """What the weaker text is; goes into the card."""
    licence: str = "unstated"
    """The licence of the weights, as the card gives it: an SPDX name such as MIT."""
    topic_stories: Annotated[int, Within(0, 100_000)] = 10_000
    """How many stories the project's own grammar adds."""
    shares: tuple[Share, Share, Share] = (0.5, 0.3, 0.2)
    """Shares of windows from text, weaker text and topic stories."""
    late_shares: tuple[Share, Share, Share] = (0.75, 0.05, 0.2)
    """The same for the last third of training."""
    repeated: Share = 0.0
    """Share of windows of random tokens that are said again and again, from which heads learn induction; the texts'
    shares are of the rest."""
    held_out_one_in: Count = 23
    """One story in so many is held out, chosen by the hash of its text."""
    d_model: Annotated[int, Within(1, 4096)] = 320
    """Width of the residual stream."""
    n_heads: Annotated[int, Within(1, 512)] = 10
    """Attention heads per layer; must divide d_model."""
    n_layers: Annotated[int, Within(1, 128)] = 2
    """Layers; those of GPT-Neo see everything and the window, which is the context, in turn."""
    act: Literal["gelu", "relu", "silu", "solu", "solu_ln"] | None = None
    """Activation function of the MLPs: with this, a norm or parallel blocks the model is TransformerLens' native one;
    without them GPT-Neo with gelu."""
    norm: Literal["LN", "RMS", "none"] = "LN"
    """What normalizes the stream before attention, before the MLP and at the end."""
    parallel: bool = False
    """Attention and MLP read the same stream, as in GPT-J, and not one after the other."""
    context: Annotated[int, Within(8, 4096)] = 256
    """Longest input in tokens."""
    vocabulary: Annotated[int, Within(257, 65_536)] = 2048
    """Tokens of the byte-level BPE: all bytes, the end of text, and more."""
    batch: Count = 16
    """Windows per step."""
    steps: Count = 7000
    """Steps to train; with `max_minutes`, an upper bound only."""
    max_minutes: Positive | None = None
    """Plan the schedule over this much wall-clock time; such a run cannot be repeated bit by bit."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """What trains the blocks' matrices; embeddings, norms and biases always have AdamW."""
    learning_rate: Annotated[float, Within(0, 10, open=True)] = 3e-3
    """At the top of the schedule."""
    final_rate: Share = 0.02
    """Share of the learning rate that is left at the end of the cosine."""
    warmup: Count = 100
    """Steps until the learning rate is at its top."""
    weight_decay: Share = 0.1
    """On the blocks' matrices only."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    dropout: Share = 0.0
    """On what attention and MLPs write; helps only if text is seen very often."""
    bf16: bool = False
    """Autocast the forward pass to bfloat16: 1.5 times as fast where the CPU has it, far slower where it has not."""
    threads: Annotated[int, Within(1, 256)] = 1
    """Threads of torch."""
    evaluate_every: Count = 250
    """Steps between two looks at the held-out loss (on a fifth of the stories)."""
    checkpoint_every: Count = 250
    """Steps between two checkpoints."""
    seed: Seed = 0
    """Seed of weights, batches and topic stories."""
    corpus_seed: Seed | None = None
    """Seed of the topic stories, where it is another one."""

    @property
    def native(self) -> bool:
        """Whether the model is a native one of TransformerLens, which has every activation, norm and order."""
        return self.act is not None or self.norm != "LN" or self.parallel

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise BadArgument(
                f"d_model={self.d_model} cannot be divided among n_heads={self.n_heads} heads; expected a multiple; "
                "choose one"
            )
        if self.repeated == 1:
            raise BadArgument("repeated=1 leaves no window for the texts; expected a share below 1; lower it")
        if self.native and self.dropout:
            raise BadArgument(
                f"dropout={self.dropout:g} with act, norm or parallel; expected 0, a native model has none; leave it "
                "out"
            )
        for name in ("shares", "late_shares"):
            if not sum(getattr(self, name)):
                raise BadArgument(
                    f"{name}={getattr(self, name)}; expected one above 0; give it to a text that is there"
                )
        size = self.d_model * (self.vocabulary + self.context + 12 * self.n_layers * self.d_model)
        if size > PARAMETERS:
            raise BadArgument(
                f"a model of {size:,} parameters; expected at most {PARAMETERS:,}, this trains small ones; lower "
                "d_model, n_layers or vocabulary"
            )
        each = self.vocabulary + 16 * self.n_layers * self.d_model
        held = max(self.batch, 16) * self.context * each + self.n_heads * self.context**2
        if held > NUMBERS:
            raise BadArgument(
                f"a step would hold {held:,} numbers at once; expected at most {NUMBERS:,}; lower batch, context or "
                "vocabulary"
            )


def recorded(settings: TrainConfig) -> dict[str, Any]:
    """Settings as a card tells them, as JSON has them: of other files and folders their names alone."""
    found = _as_json(asdict(settings))
    for key in ("text", "weaker_text"):
        found[key] = [Path(path).name for path in found[key]]
    return found | {"start": settings.start and Path(settings.start).name}


def complete(settings: object) -> dict[str, Any]:
    """Settings as an earlier version wrote them as JSON, with those that it did not know at their defaults."""
    defaults = {one.name: one.default for one in fields(TrainConfig) if one.default is not MISSING}
    return _as_json(defaults) | (settings if isinstance(settings, dict) else {})


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
