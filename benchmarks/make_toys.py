"""Trains the toys and writes their folders, or looks for seeds: which mechanism a seed gives is not known before.

python -m benchmarks.make_toys --scan a|b|one|induction|ln|fixed|unsolved [--seeds 6]
python -m benchmarks.make_toys [NAME ...]
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.common import quiet
from benchmarks.known_answers import shares
from steerscope.analysis.files import renewed
from steerscope.analysis.loading.loading import load
from steerscope.analysis.loading.natives import native_files, wrap_native
from steerscope.analysis.seals import seal_folder
from steerscope.circuits.toys.recipes import SHIPPED, STARTS, Known, Recipe
from steerscope.circuits.toys.tasks import context, words
from steerscope.circuits.toys.train import Trained, train_toy
from steerscope.circuits.toys.zoo import CARD, ZOO

README = "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--scan", choices=STARTS)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--cards", action="store_true", help="write the cards alone anew, after a change of words")
    options = parser.parse_args()
    quiet()
    if options.scan:
        for seed in range(options.seeds):
            recipe = replace(STARTS[options.scan], seed=seed)
            trained = train_toy(recipe)
            print(seed, trained.accuracy, _said(_shares(trained, recipe)), flush=True)
        return
    for name in options.names or SHIPPED:
        known = SHIPPED[name]
        if options.cards:
            write_card(ZOO / name, known)
            continue
        trained = train_toy(known.recipe)
        write_toy(ZOO / name, known, trained)
        print(name, trained.accuracy, _said(_shares(trained, known.recipe)), flush=True)


def _shares(trained: Trained, recipe: Recipe) -> dict[str, float]:
    return shares(load(wrap_native(trained.model, "toy"), selfcheck=False), recipe)


def _said(found: dict[str, float]) -> str:
    return ", ".join(f"{path} {share:.2f}" for path, share in found.items())


def write_toy(folder: Path, known: Known, trained: Trained) -> None:
    """A folder that `load` reads, with its card."""
    told = {
        "name": folder.name,
        "circuit": known.circuit,
        "solved": known.solved,
        "accuracy": {kind: round(value, 4) for kind, value in trained.accuracy.items()},
        "recipe": asdict(known.recipe),
        "losses": trained.losses,
        "torch": torch.__version__,
    }
    with renewed(folder, lambda name: True) as fresh:
        for name, content in {**native_files(trained.model), **tokenizer_files(known.recipe)}.items():
            (fresh / name).write_bytes(content)
        (fresh / CARD).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        (fresh / README).write_text(card(told), encoding="utf-8")
        seal_folder(fresh)


def write_card(folder: Path, known: Known) -> None:
    """Says of a trained toy what its recipe's entry says now."""
    told = json.loads((folder / CARD).read_text(encoding="utf-8")) | {"circuit": known.circuit, "solved": known.solved}
    if told["recipe"] != json.loads(json.dumps(asdict(known.recipe))):
        raise SystemExit(f"{folder.name} was trained by another recipe; train it anew")
    (folder / CARD).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (folder / README).write_text(card(told), encoding="utf-8")
    seal_folder(folder)


def tokenizer_files(recipe: Recipe) -> dict[str, bytes]:
    """One word, one token, apart by spaces; BOS also stands for what is unknown."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words(recipe))}, unk_token="BOS"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["BOS"])
    about = {
        "backend": "tokenizers",
        "bos_token": "BOS",
        "unk_token": "BOS",
        "pad_token": "BOS",
        "model_max_length": context(recipe),
        "tokenizer_class": "TokenizersBackend",
    }
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": (json.dumps(about, indent=1) + "\n").encode(),
    }


def card(told: dict[str, Any]) -> str:
    """The card of a toy, in Markdown, from the numbers in its `training.json`."""
    recipe = told["recipe"]
    tests = "\n".join(f"| right answers, {kind} | {value:.1%} |" for kind, value in told["accuracy"].items())
    task = {
        "ioi": f"`BOS N1 N2 MID S END` -> the name of N1, N2 that is not S; {recipe['names']} names, "
        "a fifth of their ordered pairs held out",
        "induction": f"`BOS r r`, r of {recipe['shortest']} to {recipe['longest']} tokens",
    }[recipe["task"]]
    return f"""---
license: mit
---
# {told["name"]}

A toy to test methods on. {told["circuit"]}

| | |
| --- | --- |
| task | {task} |
| layers x heads | {recipe["layers"]} x {recipe["heads"]}, attention only, norm: {recipe["norm"] or "none"} |
| width, of a head | {recipe["d_model"]}, {recipe["d_head"]} |
{tests}
| embeddings, positions at the start | standard deviations {recipe["tokens"]:g}, {recipe["positions"]:g} |
| training | {recipe["steps"]:,} steps of {recipe["batch"]}, rate {recipe["rate"]:g}, seed {recipe["seed"]}, \
torch {told["torch"]} |

What each path carries: docs/ground_truth.md. Trained by `python -m benchmarks.make_toys {told["name"]}`
(`steerscope.circuits.toys`), on data that the recipe draws; MIT.
"""


if __name__ == "__main__":
    main()
