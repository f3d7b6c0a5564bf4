"""`train`: a small model on stories, from text files to a model folder with its card.

1. Read the texts, put the held-out stories aside, tell topic stories.
2. Train a tokenizer on what is left, and turn every text into one stream of tokens.
3. Steps (see `run`): draw windows, loss, gradients, clip, update; warm-up and cosine; a checkpoint now and then.
4. Score the held-out stories, write the model folder with its card.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from steerscope.analysis.errors import BadArgument, BadCorpus
from steerscope.analysis.files import settle
from steerscope.analysis.gate import Count, gated

from .batches import Text
from .card import check_place, write_model_folder
from .checkpoint import is_checkpoint, remove_checkpoint
from .config import TrainConfig
from .corpus import is_held_out, read_stories, topic_stories
from .forward import check_same_logits
from .repeated import repeated_tokens
from .run import Corpus, Run
from .start import beginning
from .tokenizer import encode, end_token, train_tokenizer

PASSAGES = 8_000  # of random tokens that are said again and again


@dataclass(frozen=True)
class Progress:
    """Where a run stands; given to `report` after every step."""

    step: int
    fraction: float
    loss: float
    held_out: float | None
    seconds: float


@gated
def model_folder(config: TrainConfig) -> Path:
    """Where the finished model will stand, behind links.

    Raises:
        BadArgument: no folder can have this name.
    """
    out = Path(os.path.realpath(config.out)) if "\0" not in config.out else Path()
    if not config.out or not out.name:
        raise BadArgument(f"out={config.out!r}; expected a folder to write to; name one")
    return out


@gated
def checkpoint_folder(config: TrainConfig) -> Path:
    """Where the checkpoints of a run stand until it is finished."""
    out = model_folder(config)
    return out.with_name(f".{out.name}.checkpoint")


@gated
def read_corpus(config: TrainConfig) -> Corpus:
    """Reads and tokenises everything that a run learns from.

    Raises:
        BadCorpus: a text cannot be used, or all of them are too little.
    """
    seed = config.seed if config.corpus_seed is None else config.corpus_seed
    topics = list(itertools.islice(topic_stories(seed), config.topic_stories))
    stories = list(itertools.chain.from_iterable(read_stories(path) for path in config.text))
    if not config.text:  # the grammar's are the text
        stories, topics = topics, []
    held_out = [story for story in stories if is_held_out(story, config.held_out_one_in)]
    known = [story for story in stories if not is_held_out(story, config.held_out_one_in)]
    if not known or not held_out:
        raise BadCorpus(
            f"{len(stories)} stories are too few: holding out one in {config.held_out_one_in} leaves "
            f"{len(known)} to learn from and {len(held_out)} to test on; expected some for both; give more text"
        )
    weaker = list(itertools.chain.from_iterable(read_stories(path) for path in config.weaker_text))
    if config.start is None:
        tokenizer = train_tokenizer(itertools.chain(known, topics), config.vocabulary)
    else:
        tokenizer = beginning(config.start).tokenizer
    parts = {"text": known, "weaker text": weaker, "topic stories": topics}
    texts = [
        Text(encode(tokenizer, part), early, late)
        for part, early, late in zip(parts.values(), config.shares, config.late_shares, strict=True)
        if part
    ]
    if not all(sum(shares) for shares in ([t.early for t in texts], [t.late for t in texts])):
        raise BadCorpus(
            f"no text that is there has a share: shares={config.shares}, late_shares={config.late_shares} of text, "
            "weaker text and topic stories; expected one above 0 for a text that is given; change them"
        )
    if config.repeated:
        size = tokenizer.get_vocab_size()
        tokens = repeated_tokens(seed, size, config.context, PASSAGES, end_token(tokenizer))
        odds = config.repeated / (1 - config.repeated)
        texts.append(Text(tokens, odds * sum(t.early for t in texts), odds * sum(t.late for t in texts)))
    short = min(len(text.tokens) for text in texts)
    if short <= config.context + 1:
        raise BadCorpus(
            f"a text of {short} tokens is shorter than one window; expected more than {config.context + 1}; give more "
            "text, or a lower context"
        )
    characters = {name: sum(map(len, part)) for name, part in parts.items()}
    return Corpus(tokenizer, texts, held_out, characters)


@gated
def train(
    config: TrainConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    overwrite: bool = False,
    stop_after: Count | None = None,
    corpus: Corpus | None = None,
) -> Path:
    """Trains a model and writes its folder; a run that was interrupted goes on from its checkpoint.

    Args:
        progress: called after every step; `steerscope.tinystories.progress` has a bar.
        overwrite: replace a model that was trained into this folder before, with its lens; other files stay.
        stop_after: leave after this step with a checkpoint, as an interrupted run would.
        corpus: what `read_corpus` made of these settings, for whoever trains several models on it.

    Returns:
        The model's folder, or the checkpoint's after `stop_after`.

    Raises:
        OutputExists: a model is there and `overwrite` was not given, or anything else is.
        BadCorpus: a text cannot be used.
        BadArgument: the checkpoint that is there belongs to another configuration, or the rate is too high.
        DamagedRun: the checkpoint has changed since it was written.
        DiskFull, CannotWrite: the system refuses; the checkpoint stays.
        KeyboardInterrupt: with where the run will go on from.
    """
    out, checkpoint = model_folder(config), checkpoint_folder(config)
    for folder in (out, checkpoint):
        settle(folder)
    check_place(out, overwrite)
    torch.set_num_threads(config.threads)
    run = Run(config, read_corpus(config) if corpus is None else corpus)
    check_same_logits(run.model, torch.arange(min(config.context, 64))[None])
    if is_checkpoint(checkpoint):
        run.resume(checkpoint)
    else:
        run.save(checkpoint)  # a place that cannot be written to is found out at once
    if not _learn(run, checkpoint, progress, stop_after):
        return checkpoint
    write_model_folder(run, out, overwrite)
    remove_checkpoint(checkpoint)
    return out


def _learn(run: Run, checkpoint: Path, progress: Callable[[Progress], None] | None, stop_after: int | None) -> bool:
    """Steps until the run is done (True) or `stop_after` is reached (False)."""
    kept, recent = run.step, list[float]()
    try:
        while run.fraction < 1:
            recent.append(run.one_step())
            held_out = None
            if run.step % run.config.evaluate_every == 0 or run.fraction >= 1:
                held_out = run.held_out(every=5).bits_per_character
                run.check_finite("held-out loss", held_out)
                run.losses.append((run.step, sum(recent) / len(recent)))
                run.held_out_losses.append((run.step, held_out))
                recent = []
            stopped = stop_after is not None and run.step >= stop_after
            if run.step % run.config.checkpoint_every == 0 or run.fraction >= 1 or stopped:
                run.save(checkpoint)
                kept = run.step
            if progress is not None:
                loss = sum(recent) / len(recent) if recent else run.losses[-1][1]
                progress(Progress(run.step, run.fraction, loss, held_out, run.seconds))
            if stopped and run.fraction < 1:
                return False
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped; the same run goes on behind step {kept}, from {str(checkpoint)!r}") from stop
    return True
