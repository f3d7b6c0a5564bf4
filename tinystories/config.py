"""Everything that decides what is trained and how, in one frozen record.

Needs no torch, so that a command line can show and check the settings at once.
"""

from dataclasses import dataclass
from typing import Literal

from steerscope.analysis.errors import BadArgument


@dataclass(frozen=True)
class TrainConfig:
    """All that decides what is trained, and how."""

    text: tuple[str, ...]
    """Files with the stories to learn from; their held-out part gives the reported loss."""
    out: str
    """Folder for the finished model; checkpoints stand beside it until the end."""
    text_source: str = "unstated"
    """What the text is and under which licence; goes into the card."""
    weaker_text: tuple[str, ...] = ()
    """Files with more, but weaker text, for quantity; never held out, hardly used in the last third."""
    weaker_source: str = "unstated"
    """What the weaker text is; goes into the card."""
    licence: str = "unstated"
    """The licence of the weights, as the card gives it: an SPDX name such as MIT."""
    topic_stories: int = 10_000
    """How many stories the project's own grammar adds."""
    shares: tuple[float, float, float] = (0.5, 0.3, 0.2)
    """Shares of windows from text, weaker text and topic stories."""
    late_shares: tuple[float, float, float] = (0.75, 0.05, 0.2)
    """The same for the last third of training."""
    held_out_one_in: int = 23
    """One story in so many is held out, chosen by the hash of its text."""
    d_model: int = 320
    """Width of the residual stream."""
    n_heads: int = 10
    """Attention heads per layer; must divide d_model."""
    n_layers: int = 2
    """Layers, global and local attention in turn."""
    context: int = 256
    """Longest input in tokens."""
    vocabulary: int = 2048
    """Tokens of the byte-level BPE."""
    batch: int = 16
    """Windows per step."""
    steps: int = 7000
    """Steps to train; with `max_minutes`, an upper bound only."""
    max_minutes: float | None = None
    """Plan the schedule over this much wall-clock time; such a run cannot be repeated bit by bit."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """What trains the blocks' matrices; embeddings, norms and biases always have AdamW."""
    learning_rate: float = 3e-3
    """At the top of the schedule."""
    final_rate: float = 0.02
    """Share of the learning rate that is left at the end of the cosine."""
    warmup: int = 100
    """Steps until the learning rate is at its top."""
    weight_decay: float = 0.1
    """On the blocks' matrices only."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    dropout: float = 0.0
    """On what attention and MLPs write; helps only if text is seen very often."""
    bf16: bool = True
    """Autocast the forward pass to bfloat16: 1.5 times as fast where the CPU has it."""
    threads: int = 1
    """Threads of torch."""
    evaluate_every: int = 250
    """Steps between two looks at the held-out loss (on a fifth of the stories)."""
    checkpoint_every: int = 250
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of weights, batches and topic stories."""

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise BadArgument(
                f"d_model={self.d_model} cannot be divided among n_heads={self.n_heads} heads; choose a multiple."
            )
        if not 257 <= self.vocabulary <= 65_536:
            raise BadArgument(
                f"vocabulary={self.vocabulary} does not fit; expected 257 (all bytes and the end of "
                "text) to 65,536 tokens."
            )
        for name in ("steps", "batch", "context", "n_layers", "threads", "held_out_one_in"):
            if getattr(self, name) < 1:
                raise BadArgument(f"{name}={getattr(self, name)} is too small; expected at least 1.")
        if self.optimizer not in ("muon", "adamw"):
            raise BadArgument(f"optimizer={self.optimizer!r} is unknown; expected 'muon' or 'adamw'.")
