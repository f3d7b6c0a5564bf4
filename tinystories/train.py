"""`train`: a small GPT-Neo on stories, from text files to a model folder with its card.

1. Read the texts, put the held-out stories aside, tell topic stories.
2. Train a tokenizer on what is left, and turn every text into one stream of tokens.
3. Steps (see `run`): draw windows, loss, gradients, clip, update; warm-up and cosine; a checkpoint now and then.
4. Score the held-out stories, write the model folder with its card.
"""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from steerscope.analysis.errors import BadCorpus, OutputExists

from .batches import Text
from .card import write_model_folder
from .config import TrainConfig
from .corpus import is_held_out, read_stories, topic_stories
from .forward import check_same_logits
from .run import Corpus, Run
from .tokenizer import encode, train_tokenizer


@dataclass(frozen=True)
class Progress:
    """Where a run stands; given to `report` after every step."""

    step: int
    fraction: float
    loss: float
    held_out: float | None
    seconds: float


def checkpoint_folder(config: TrainConfig) -> Path:
    """Where the checkpoints of a run stand until it is finished."""
    out = Path(config.out)
    return out.with_name(f".{out.name}.checkpoint")


def read_corpus(config: TrainConfig) -> Corpus:
    """Reads and tokenises everything that a run learns from."""
    stories = list(itertools.chain.from_iterable(read_stories(path) for path in config.text))
    held_out = [story for story in stories if is_held_out(story, config.held_out_one_in)]
    known = [story for story in stories if not is_held_out(story, config.held_out_one_in)]
    if not known or not held_out:
        raise BadCorpus(
            f"{len(stories)} stories are too few: holding out one in {config.held_out_one_in} leaves "
            f"{len(known)} to learn from and {len(held_out)} to test on; give more text."
        )
    weaker = list(itertools.chain.from_iterable(read_stories(path) for path in config.weaker_text))
    topics = list(itertools.islice(topic_stories(config.seed), config.topic_stories))
    tokenizer = train_tokenizer(itertools.chain(known, topics), config.vocabulary)
    parts = {"text": known, "weaker text": weaker, "topic stories": topics}
    texts = [
        Text(encode(tokenizer, part), early, late)
        for part, early, late in zip(parts.values(), config.shares, config.late_shares, strict=True)
        if part
    ]
    short = min(len(text.tokens) for text in texts)
    if short <= config.context + 1:
        raise BadCorpus(
            f"A text of {short} tokens is shorter than one window; give more text, or a context below {config.context}."
        )
    characters = {name: sum(map(len, part)) for name, part in parts.items()}
    return Corpus(tokenizer, texts, held_out, characters)


def train(
    config: TrainConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    overwrite: bool = False,
    stop_after: int | None = None,
) -> Path:
    """Trains a model and writes its folder; a run that was interrupted goes on from its checkpoint.

    Args:
        progress: called after every step; `steerscope.tinystories.progress` has a bar.
        overwrite: replace a folder that is there already.
        stop_after: leave after this step with a checkpoint, as an interrupted run would.

    Returns:
        The model's folder, or the checkpoint's after `stop_after`.

    Raises:
        OutputExists: the folder is there and `overwrite` was not given.
        BadCorpus: a text cannot be used.
        BadArgument: the checkpoint that is there belongs to another configuration.
    """
    out, checkpoint = Path(config.out), checkpoint_folder(config)
    if out.exists() and not overwrite:
        raise OutputExists(f"There is something at {out} already; choose another folder or overwrite it.")
    torch.set_num_threads(config.threads)
    run = Run(config, read_corpus(config))
    check_same_logits(run.model, torch.arange(min(config.context, 64))[None])
    if (checkpoint / "state.json").is_file():
        run.resume(checkpoint)
    if not _learn(run, progress, stop_after):
        return checkpoint
    write_model_folder(run, out)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return out


def _learn(run: Run, progress: Callable[[Progress], None] | None, stop_after: int | None) -> bool:
    """Steps until the run is done (True) or `stop_after` is reached (False)."""
    config, checkpoint, recent = run.config, checkpoint_folder(run.config), list[float]()
    while run.fraction < 1:
        recent.append(run.one_step())
        held_out = None
        if run.step % config.evaluate_every == 0 or run.fraction >= 1:
            held_out = run.held_out(every=5).bits_per_character
            run.losses.append((run.step, sum(recent) / len(recent)))
            run.held_out_losses.append((run.step, held_out))
            recent = []
        stopped = stop_after is not None and run.step >= stop_after
        if run.step % config.checkpoint_every == 0 or run.fraction >= 1 or stopped:
            run.save(checkpoint)
        if progress is not None:
            loss = sum(recent) / len(recent) if recent else run.losses[-1][1]
            progress(Progress(run.step, run.fraction, loss, held_out, run.seconds))
        if stopped and run.fraction < 1:
            return False
    return True
