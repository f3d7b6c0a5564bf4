"""Writes a finished model as a folder that steerscope loads (Hugging Face, too, where it is a GPT-Neo), with its card.

    config.json, model.safetensors         GPT-Neo or native; weights stored as float16, loaded as float32
    tokenizer.json, tokenizer_config.json  the byte-level BPE
    training.json                          configuration, losses, held-out score, samples; studies of shipped ones
    loss.png, README.md                    both drawn from training.json alone
    checksums.json                         of all of them

The held-out score is taken after the weights were rounded to float16: it is the score of the file.
"""

import copy
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformer_lens.model_bridge.sources.native import NativeModel

from steerscope.analysis.errors import DamagedRun, OutputExists
from steerscope.analysis.files import renewed, storing
from steerscope.analysis.loading.natives import native_files
from steerscope.analysis.seals import CHECKSUMS, check_folder_seal, read_json, seal_folder

from .batches import epochs
from .config import recorded
from .forward import Story, check_same_logits, logits_of
from .run import Run
from .tokenizer import as_transformers, end_token

WEIGHTS, CARD, NUMBERS, PICTURE = "model.safetensors", "README.md", "training.json", "loss.png"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CONFIG = ("config.json", "generation_config.json")
# What goes with a model that is replaced: a lens belongs to its weights.
OURS = {WEIGHTS, CARD, NUMBERS, PICTURE, *TOKENIZER, *CONFIG, CHECKSUMS, "lens"}
REPEATED = "repeated random tokens"  # the name of that text
SAMPLE = 256  # tokens of a sample story, at most
OPENINGS = (
    "One day, Lily went to the park with her dad.",
    "Once upon a time, there was a little boy named Tom.",
    "The bride wore a white dress.",
    "There was a big dragon in a cave.",
)


def check_place(out: Path, overwrite: bool) -> None:
    """Refuses a folder that a model cannot be written to, before any work is done.

    Raises:
        OutputExists: a model is there and `overwrite` is false, or anything else is.
    """
    with storing(out):
        if out.exists() and not out.is_dir():
            raise OutputExists(f"{str(out)!r} is a file; expected a folder for a model; choose another name")
        there = {path.name for path in out.iterdir()} if out.exists() else set()
    if there and NUMBERS not in there:
        raise OutputExists(
            f"{str(out)!r} holds {len(there)} files or folders, and no model that was trained here; expected an empty "
            "folder, or none; choose another"
        )
    if there and not overwrite:
        raise OutputExists(
            f"{str(out)!r} holds a model already; expected a new folder; choose another, or pass --overwrite "
            "(overwrite=True)"
        )


def read_card(folder: Path) -> dict[str, Any]:
    """What `training.json` of a model says.

    Raises:
        DamagedRun: a file of the folder is missing, or has changed since it was written.
    """
    check_folder_seal(folder, DamagedRun, "model")
    return read_json(folder / NUMBERS, DamagedRun, "card of a model", needed=lambda found: False)


def write_model_folder(run: Run, out: Path, overwrite: bool) -> None:
    """Scores the model of a run and writes its folder at once: readers see no half of it.

    Raises:
        OutputExists: another process has put one there meanwhile.
        DiskFull, CannotWrite: the system refuses; what was there stays.
    """
    model = run.model
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half().float())
    size = sum(float(weight.detach().abs().max()) for weight in model.parameters())
    run.check_finite("size of the weights in float16", size)
    length = min(run.config.context, 64)
    difference = check_same_logits(model, torch.randint(run.corpus.tokenizer.get_vocab_size(), (2, length)))
    training = _training(run, out.name, difference)
    with renewed(out, OURS.__contains__, new=not overwrite) as fresh:
        with _system_errors():
            _write_weights(model, fresh)
            as_transformers(run.corpus.tokenizer, run.config.context).save_pretrained(fresh)
        numbers = json.dumps(training, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (fresh / NUMBERS).write_bytes(numbers.encode())
        (fresh / PICTURE).write_bytes(draw_losses(training))
        (fresh / CARD).write_bytes(card(training).encode())
        seal_folder(fresh)


@contextmanager
def _system_errors() -> Iterator[None]:
    """What the system refuses a library that is written in Rust, as Python says it."""
    try:
        yield
    except Exception as error:  # of any type, with the number in its text
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number)) from error


def _write_weights(model: Story, folder: Path) -> None:
    if isinstance(model, NativeModel):
        for name, content in native_files(copy.deepcopy(model).half()).items():
            (folder / name).write_bytes(content)
        return
    model.config.architectures = ["GPTNeoForCausalLM"]
    model.config.dtype = torch.float32  # what to load as; the file itself holds float16
    model.config.save_pretrained(folder)
    weights = {name: weight.detach().half() for name, weight in model.named_parameters()}
    (folder / WEIGHTS).write_bytes(save(weights, {"format": "pt"}))


def _training(run: Run, name: str, difference: float) -> dict[str, Any]:
    score = run.held_out()
    seen = run.step * run.config.batch * run.config.context
    return {
        "name": name,
        "layers": run.config.n_layers,
        "heads": run.config.n_heads,
        "d_model": run.config.d_model,
        "parameters": sum(weight.numel() for weight in run.model.parameters()),
        "vocabulary": run.corpus.tokenizer.get_vocab_size(),
        "context": run.config.context,
        "steps": run.step,
        "tokens_seen": seen,
        "epochs": [round(value, 2) for value in epochs(run.corpus.texts, seen)],
        "minutes": round(run.seconds / 60, 1),
        "characters": run.corpus.characters,
        "held_out": {
            "stories": score.stories,
            "characters": score.characters,
            "tokens": score.tokens,
            "loss": round(score.loss, 4),
            "bits_per_character": round(score.bits_per_character, 4),
        },
        "logit_difference": difference,
        "corpus": run.corpus.hash,
        "torch": torch.__version__,
        "config": recorded(run.config) | {"out": name},
        "losses": [[step, round(loss, 4)] for step, loss in run.losses],
        "held_out_losses": [[step, round(loss, 4)] for step, loss in run.held_out_losses],
        "samples": [_sample(run, opening) for opening in OPENINGS],
    }


@torch.no_grad()
def _sample(run: Run, opening: str, temperature: float = 0.7) -> str:
    tokenizer, context = run.corpus.tokenizer, run.config.context
    end = end_token(tokenizer)
    ids: list[int] = [end, *tokenizer.encode(opening).ids]
    dice = torch.Generator().manual_seed(run.config.seed)
    while len(ids) < min(context, SAMPLE):
        logits = logits_of(run.model, torch.tensor([ids]))[0, -1]
        choice = int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=dice))
        if choice == end:
            break
        ids.append(choice)
    return str(tokenizer.decode(ids[1:]))


def draw_losses(training: dict[str, Any]) -> bytes:
    """The two loss curves over the steps, as a picture."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    loss, bits = figure.subplots(1, 2)
    loss.plot(*zip(*training["losses"], strict=True), color="#3366aa")
    loss.set(xlabel="step", ylabel="nats per token", title="training loss")
    bits.plot(*zip(*training["held_out_losses"], strict=True), color="#aa5533")
    bits.set(xlabel="step", ylabel="bits per character", title="held-out stories (a fifth of them)")
    for axes in (loss, bits):
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    return picture.getvalue()


def card(training: dict[str, Any]) -> str:
    """The model card, in Markdown."""
    held, config = training["held_out"], training["config"]
    schedule = (
        f"The schedule was planned over {config['max_minutes']:g} minutes of wall-clock time, so that "
        "the run cannot be repeated bit by bit."
        if config["max_minutes"] is not None
        else "The schedule was planned in steps: the same seed gives the same run."
    )
    start = config.get("start")
    begun = (
        f" It began with the weights and the tokenizer of `{start}`; steps and tokens are those since." if start else ""
    )
    matrices = "Muon for the blocks' matrices and AdamW for the rest" if config["optimizer"] == "muon" else "AdamW"
    texts = "\n".join(
        f"| {name} | {size} | {early:.0%} | {late:.0%} | {seen:g} |"
        for (name, size, early, late), seen in zip(_texts(training), training["epochs"], strict=True)
    )
    about = "\n".join(f'- "{name}": {_about(name, config)}' for name, *_ in _texts(training))
    native = bool(config.get("act") or config.get("norm", "LN") != "LN" or config.get("parallel"))
    architecture = _native(config) if native else "GPT-Neo architecture like the\npublished TinyStories models"
    samples = "\n\n".join("> " + text.strip().replace("\n", "\n>\n> ") for text in training["samples"])
    return f"""---
license: {config["licence"].lower()}
language: en
library_name: {"steerscope" if native else "transformers"}
---
# {training["name"]}

A small language model of children's stories, made to be taken apart: {architecture}, \
{training["layers"]} layer{"s" * (training["layers"] > 1)}, {training["heads"]} heads, \
{training["d_model"]} dimensions,
{training["vocabulary"]:,} tokens, context {training["context"]}, {training["parameters"]:,} parameters. \
Weights are stored as float16
and loaded as float32.

## Figures
| | |
| --- | --- |
| held-out loss | {held["loss"]} nats per token |
| held-out bits per character | {held["bits_per_character"]} |
| held-out stories | {held["stories"]} stories of "text", {held["characters"]:,} characters, {held["tokens"]:,} tokens |
| steps | {training["steps"]:,} of {config["batch"]} windows of {training["context"]} tokens |
| tokens seen | {training["tokens_seen"]:,} |
| time | {training["minutes"]} minutes on {config["threads"]} CPU thread{"s" * (config["threads"] > 1)} |

How the held-out stories are scored: {PROTOCOL}

![Loss over the steps of training](loss.png)

The curve on the right is taken on a fifth of the held-out stories, so it need not end at the figure above.

## Data
| text | characters | share of windows | in the last third | times seen |
| --- | --- | --- | --- | --- |
{texts}

{about}

## Training
{matrices}, rate {config["learning_rate"]:g} with {config["warmup"]} steps of warm-up and a cosine down to \
{config["final_rate"]:.0%}, weight decay {config["weight_decay"]:g}
on the blocks' matrices, gradients clipped at {config["clip"]:g}, dropout {config["dropout"]:g}, \
{"bfloat16 autocast" if config["bf16"] else "float32"}, seed {config["seed"]}.
{schedule}{begun} All settings and losses are in `training.json`.

## Stories
Begun with the first sentence of each, temperature 0.7, not selected:

{samples}
{studied(training.get("studies"))}
## Licence
Weights: {config["licence"]}. Text: see above; none of it is part of this folder.
"""


def _texts(training: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """What was learned from: name, characters, and the share of windows at first and in the last third."""
    config, sizes = training["config"], training["characters"]
    there = [index for index, size in enumerate(sizes.values()) if size]
    repeated = config.get("repeated", 0.0)
    columns = []
    for key in ("shares", "late_shares"):
        shares = [config[key][index] for index in there]
        columns.append([(1 - repeated) * share / sum(shares) for share in shares] + [repeated])
    names = [(name, f"{size:,}") for name, size in sizes.items() if size] + [(REPEATED, "–")]
    rows = [(*name, early, late) for name, early, late in zip(names, *columns, strict=True)]
    return rows if repeated else rows[:-1]


def _about(text: str, config: dict[str, Any]) -> str:
    source = config["text_source"] if config["text"] else "told by this project's own grammar"
    return {
        "text": f"""{source}. One story in {config["held_out_one_in"]}, chosen by the hash of its
  text, was held out from the training of model and tokenizer; the figures above are on those.""",
        "weaker text": f"{config['weaker_source']}.",
        "topic stories": """told by this project's own grammar (`steerscope.tinystories.corpus`), so that words
  of one topic come together.""",
        REPEATED: """segments of random tokens that are said several times with others in between
  (`steerscope.tinystories.repeated`); nothing but an earlier copy tells what comes next, which is what heads learn
  induction from.""",
    }[text]


def _native(config: dict[str, Any]) -> str:
    norm = {"LN": "LayerNorm", "RMS": "RMSNorm", "none": "no norm"}[config["norm"]]
    order = "parallel blocks" if config["parallel"] else "attention before the MLP"
    return f"a native model\nof TransformerLens with {config['act'] or 'gelu'}, {norm} and {order}"


def studied(studies: dict[str, Any] | None) -> str:
    """What was found of a shipped model (`benchmarks/cards.py`), in Markdown; nothing of others."""
    if studies is None:
        return ""
    parts = []
    for study in studies["tables"]:
        head = "| " + " | ".join(study["columns"]) + " |\n|" + " --- |" * len(study["columns"])
        rows = "\n".join("| " + " | ".join(row) + " |" for row in study["rows"])
        text = "".join(f"- {sentence}\n" for sentence in study["says"])
        parts.append(f"\n## {study['title']}\n{study['about']}\n\n{text}{chr(10) * bool(text)}{head}\n{rows}\n")
    return "".join(parts)


PROTOCOL = (
    "each story is tokenised alone, begins with the end-of-text token, and its end is predicted too; a "
    "story longer than the context is read in windows that move on by half of it, and every token counts "
    "once. Bits per character are all nats (the end tokens' too) over ln 2 times the characters of the stories."
)
