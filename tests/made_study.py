"""Results of the study of variants and of task vectors, made up: numbers without a model."""

from typing import Any

import numpy as np
import pandas as pd

from steerscope.analysis.results.result import Result
from steerscope.tinystories import compare, task_vector
from steerscope.tinystories.steering import MEASURES, SIZES
from steerscope.tinystories.variants import Recipe


def made_study(seeds: int = 3, apart: float = 0.0) -> Result:
    """Variants whose measures are drawn alike, but that of relu, which is moved by so many spreads."""
    dice, recipe = np.random.default_rng(0), Recipe(seeds=seeds)
    rows, models = [], []
    for seed in range(seeds):
        for variant in recipe.variants:
            models.append({"variant": variant, "seed": seed, "loss": 1.0, "unigram": 5.0, "told": 4.0, "seconds": 60.0})
            for concept in recipe.concepts:
                for measure in MEASURES:
                    value = float(np.exp(0.1 * dice.normal() + 0.1 * apart * (variant == "relu")))
                    rows.append(
                        {"variant": variant, "seed": seed, "concept": concept, "measure": measure} | {"value": value}
                    )
    manifest: dict[str, Any] = {
        "recipe": recipe.describe(),
        "prompts": {"count": recipe.openings},
        "sizes": SIZES.tolist(),
        "loss": 0.1,
        "level": 0.95,
        "alpha": 0.05,
        "checks": [],
        "missing": {},
    }
    return Result("compare_variants", compare.tables(rows, models, 0.95, 0.05), compare.COLUMNS, manifest)


def made_tasks(seeds: int = 3) -> Result:
    """All arms and measures, drawn at random."""
    dice, rows = np.random.default_rng(0), []
    for arm in task_vector.ARMS:
        for seed in range(1 if arm.startswith("activation") else seeds):
            for measure, (_, unit) in task_vector.MEASURES.items():
                about = {"arm": arm, "seed": seed, "scale": 1.0, "kl": 0.3, "measure": measure, "unit": unit}
                rows.append(about | {"value": float(dice.normal())})
    runs = pd.DataFrame(rows)
    manifest: dict[str, Any] = {
        "model": {"name": "tiny"},
        "topic": "wedding",
        "kl": 0.3,
        "recipe": {"seeds": seeds, "steps": 60},
        "prompts": {"count": 24},
        "level": 0.95,
        "checks": [],
        "missing": {},
    }
    return Result("task_vector", task_vector.tables(runs, 0.95), task_vector.COLUMNS, manifest)
