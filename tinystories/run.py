"""`Run`: a model on its way: its corpus, its optimizers, how far it has come, and its checkpoints.

The blocks' matrices are trained with Muon (Jordan et al. 2024: the momentum is orthogonalized), all
else with AdamW. In trials of three minutes each at the same rate (3e-3, not tuned for either), Muon
reached 1.26 bits per held-out character and AdamW alone (`optimizer="adamw"`) 1.47.
"""

import hashlib
import json
import math
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from steerscope.analysis.errors import BadArgument, DamagedRun

from .batches import Batches, Text
from .checkpoint import State, load_checkpoint, read_state, save_checkpoint
from .config import TrainConfig, complete
from .evaluate import HeldOut, evaluate
from .forward import Story, logits_of, story_model
from .muon import Muon
from .start import beginning
from .tokenizer import end_token

FREE = {"out", "threads", "evaluate_every", "checkpoint_every"}
"""Settings that may change when a run is resumed."""
BLOCK = re.compile(r"\b(h|layers)\.\d")  # what GPT-Neo and native models call their blocks


@dataclass
class Corpus:
    """The tokenised texts, the tokenizer, and the stories that nobody learns from."""

    tokenizer: Tokenizer
    texts: list[Text]
    held_out: list[str]
    characters: dict[str, int] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 over the tokenizer, all tokens and the stories that are held out."""
        found = hashlib.sha256(self.tokenizer.to_str().encode())
        for text in self.texts:
            found.update(json.dumps([len(text.tokens), text.early, text.late]).encode() + text.tokens.tobytes())
        found.update(json.dumps(self.held_out).encode())
        return found.hexdigest()


def optimizers(model: Story, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The blocks' matrices to Muon or AdamW, the rest to AdamW without decay."""
    named = list(model.named_parameters())
    inner = [bool(BLOCK.search(name)) and weight.ndim == 2 for name, weight in named]
    matrices = [weight for (_, weight), inside in zip(named, inner, strict=True) if inside]
    rest = [weight for (_, weight), inside in zip(named, inner, strict=True) if not inside]
    adam = {"lr": config.learning_rate, "betas": (0.9, 0.98), "fused": True}
    if config.optimizer == "adamw":
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest}]
        return [torch.optim.AdamW(groups, weight_decay=0.0, **adam)]  # type: ignore[arg-type]
    muon = Muon(matrices, config.learning_rate, config.weight_decay)
    return [muon, torch.optim.AdamW(rest, weight_decay=0.0, **adam)]  # type: ignore[arg-type]


def rate(config: TrainConfig, step: int, fraction: float) -> float:
    """The learning rate's share of its top: linear warm-up, then a cosine over the whole run."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    return min(1.0, (step + 1) / config.warmup) * (config.final_rate + (1 - config.final_rate) * cosine)


class Run:
    """One training run: the model, its optimizers, and how far it has come."""

    def __init__(self, config: TrainConfig, corpus: Corpus) -> None:
        self.config, self.corpus = config, corpus
        self.model = story_model(config, corpus.tokenizer.get_vocab_size(), end_token(corpus.tokenizer))
        if config.start is not None:
            beginning(config.start).into(self.model)
        self.optimizers = optimizers(self.model, config)
        self.batches = Batches(
            corpus.texts, batch=config.batch, length=config.context, seed=config.seed, end=end_token(corpus.tokenizer)
        )
        self.step, self.seconds = 0, 0.0
        self.losses: list[tuple[int, float]] = []
        self.held_out_losses: list[tuple[int, float]] = []

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0 to 1."""
        by_steps = self.step / self.config.steps
        if self.config.max_minutes is None:
            return by_steps
        return min(1.0, max(by_steps, self.seconds / 60 / self.config.max_minutes))

    def one_step(self) -> float:
        """Draws a batch, learns from it, and returns its loss in nats per token."""
        config, began = self.config, time.monotonic()
        windows = self.batches.draw(self.step, self.fraction)
        # for dropout, the same after resuming
        torch.manual_seed(hash((config.seed, self.step)) % 2**31)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            logits = logits_of(self.model, windows[:, :-1], config.dropout)
            loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.check_finite("loss or its gradient", float(loss.detach()) + float(norm))
        share = rate(config, self.step, self.fraction)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * share
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.seconds += time.monotonic() - began
        return float(loss.detach())

    def held_out(self, every: int = 1) -> HeldOut:
        """The score on the held-out stories, or on every n-th of them."""
        chosen = self.corpus.held_out[::every]

        def logits(tokens: torch.Tensor) -> torch.Tensor:
            return logits_of(self.model, tokens)

        return evaluate(logits, self.corpus.tokenizer, chosen, self.config.context)

    def check_finite(self, what: str, value: float) -> None:
        """Names numbers that are none where they arise.

        Raises:
            BadArgument: such a one.
        """
        if not math.isfinite(value):
            raise BadArgument(
                f"the {what} is {value} behind step {self.step}; expected a finite number; train into another folder "
                f"with a learning_rate below {self.config.learning_rate:g}"
            )

    def save(self, folder: Path) -> None:
        """Writes a checkpoint."""
        state = State(
            json.loads(json.dumps(asdict(self.config))),
            self.corpus.hash,
            self.step,
            self.seconds,
            self.losses,
            self.held_out_losses,
        )
        save_checkpoint(folder, self.model, self.optimizers, state, self.corpus.tokenizer)

    def resume(self, folder: Path) -> None:
        """Goes on where a checkpoint stopped.

        Raises:
            BadArgument: it was made with other settings or other texts.
            DamagedRun: it cannot be read.
        """
        state = read_state(folder)
        mine, there = json.loads(json.dumps(asdict(self.config))), complete(state.config)
        changed = [name for name in mine if name not in FREE and mine[name] != there.get(name)]
        if not changed and state.corpus != self.corpus.hash:
            changed = ["text (it holds other stories now)"]
        if changed:
            raise BadArgument(
                f"the checkpoint {str(folder)!r} was made with other settings of {', '.join(sorted(changed))}; "
                "expected the same; use them, remove the checkpoint, or train into another folder"
            )
        if state.step > self.config.steps:
            raise DamagedRun(
                f"the checkpoint {str(folder)!r} is of step {state.step}; expected at most {self.config.steps}; to "
                "begin anew, remove it"
            )
        load_checkpoint(folder, self.model, self.optimizers, state.step > 0)
        self.step, self.seconds = state.step, state.seconds
        self.losses, self.held_out_losses = list(state.losses), list(state.held_out_losses)
