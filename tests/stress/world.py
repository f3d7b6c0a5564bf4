"""What the doors of the stress tests are given: a small model, texts, results; made once, never written to."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pandas as pd
import torch
from checkpoints import TEXT, save_gpt2
from small_training import small_training, stories

from steerscope.analysis.lens.lens import Lens, new_lens
from steerscope.analysis.loading.loading import load
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import Site
from steerscope.analysis.question.corpora import windows
from steerscope.analysis.question.prompts import Prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.results.schema import Column
from steerscope.analysis.vectors.vector import SteeringVector
from steerscope.reports.report import html
from steerscope.tinystories.config import TrainConfig

NOTHING, OLD, NEW, RESUMABLE = "nothing", "old", "new", "resumable"
SEEDS: Mapping[str, int] = {OLD: 0, NEW: 1}


@dataclass(frozen=True)
class World:
    """What the doors are given: a small model, texts, results; nothing is ever written to it."""

    home: Path

    @cached_property
    def model(self) -> Model:
        return load(self.home / "tiny", name="tiny")

    @cached_property
    def windows(self) -> Prompts:
        return windows(self.model, str(self.home / "text.txt"), count=24, tokens=12)

    @cached_property
    def result(self) -> Mapping[str, Result]:
        """An old one and a new one; the new one has a table more."""
        about = {"label": Column("of what", role="label"), "effect": Column("how much", "logits", "estimate")}
        found = {}
        for word, seed in SEEDS.items():
            table = pd.DataFrame({"label": [f"{word} {i}" for i in range(50)], "effect": [float(seed)] * 50})
            frames = {"first": table} | ({"second": table} if word == NEW else {})
            manifest = {"model": {"name": "tiny"}, "seed": seed, "checks": [], "missing": {}, "level": 0.95}
            found[word] = Result("made", frames, dict.fromkeys(frames, about), manifest)
        return found

    @cached_property
    def page(self) -> Mapping[str, str]:
        return {word: html(result) for word, result in self.result.items()}

    @cached_property
    def vector(self) -> Mapping[str, SteeringVector]:
        return {
            word: SteeringVector(torch.full((2, 32), float(seed + 1)), Site("resid_pre", 0), {"label": word})
            for word, seed in SEEDS.items()
        }

    @cached_property
    def lens(self) -> Mapping[str, Lens]:
        found = {}
        for word, seed in SEEDS.items():
            found[word] = made = new_lens(self.model)
            assert made.tuned is not None
            for weight in made.tuned.layer_translators.parameters():
                weight.data += 0.01 * (seed + 1)
        return found

    def stories(self, out: Path, word: str) -> TrainConfig:
        options = {"steps": 4, "evaluate_every": 2, "seed": SEEDS[word]}
        found: TrainConfig = small_training(self.home / "stories.txt", out, **options)
        return found


@cache
def world() -> World:
    """Made once a session, in a folder of its own."""
    home = Path(tempfile.mkdtemp(prefix="steerscope-stress-"))
    save_gpt2(home / "tiny")
    lines = ["One day Lily saw a dragon", "Tom had a red ball", "The dog ran to the park", "Once there was a wedding"]
    (home / "prompts.txt").write_text("\n".join(lines))
    (home / "text.txt").write_text("\n\n".join([TEXT[:400]] * 12))
    stories(home / "stories.txt")
    return World(home)


def forget_world() -> None:
    shutil.rmtree(world().home, ignore_errors=True)
