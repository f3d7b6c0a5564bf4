"""Edited passes of all kinds, made by chance, for tests that hold an engine to a slower one."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from steerscope.analysis.engine.edits import Edit, Variant
from steerscope.analysis.engine.operations import DIRECTED
from steerscope.analysis.model.models import Model
from steerscope.analysis.model.nodes import SCALES, Site

PROMPTS = [[3, 14, 15, 9, 26, 5, 35, 8, 9, 79, 32], [2, 71, 82, 81, 8], [1, 61, 80, 33, 9, 88, 7]]


def sites(model: Model) -> list[Site]:
    """Every site of the model, and every head for those that have heads."""
    found = []
    for layer in range(model.n_layers):
        found += [Site("resid_pre", layer), Site("attn_out", layer)]
        found += [Site("mlp_out", layer)] if model.has_mlp else []
        per_head = ("q", "k", "v", "z", "pattern")
        found += [Site(n, layer, h) for n in per_head for h in range(model.heads(n))]
        found += [
            Site(n, layer)
            for n in ("ln1_scale", "ln2_scale")
            if f"blocks.{layer}.{n[:3]}.hook_scale" in model.bridge.hook_dict
        ]
    if "ln_final.hook_scale" in model.bridge.hook_dict:
        found.append(Site("final_scale", model.n_layers - 1))
    return found


def random_edit(model: Model, length: int, chance: random.Random) -> Edit:
    site = chance.choice(sites(model))
    own = ["hide"] * 3 if site.name == "pattern" else [] if site.name in SCALES else DIRECTED
    operation: Any = chance.choice(["add", "set", "scale", *own])
    positions = tuple(chance.sample(range(length), chance.randint(1, length)))
    everywhere = chance.random() < 0.3
    rows = length if everywhere else len(positions)
    width = chance.choice([length, model.n_ctx]) if site.name == "pattern" else model.width(site)
    generator = torch.Generator().manual_seed(chance.randrange(10**6))
    shape = (width,) if chance.random() < 0.5 else (rows, width)
    value = chance.uniform(-1, 2) if operation == "scale" else torch.randn(shape, generator=generator) / 3
    if isinstance(value, torch.Tensor):
        if operation == "hide":
            value = (value > 0).float()
        elif site.name == "pattern" and operation != "add":
            value = value.abs()  # a later hide divides by what is left of it
        elif site.name in SCALES:
            value = value.abs() + 2.0  # what makes the stream small, not large: log-probabilities stay near 0
    elif site.name in SCALES:
        value = abs(value) + 1.0
    return Edit(site, operation, value, None if everywhere else positions)


def random_variants(model: Model, prompts: Sequence[Sequence[int]], count: int, seed: int = 0) -> list[Variant]:
    """Of every prompt, up to four edits each; some edits are held by several variants, and some variants have none."""
    chance = random.Random(seed)
    variants: list[Variant] = []
    for _ in range(count):
        prompt = chance.randrange(len(prompts))
        edits = [random_edit(model, len(prompts[prompt]), chance) for _ in range(chance.randint(0, 4))]
        old = [v for v in variants if v.prompt == prompt]
        if old and chance.random() < 0.4:
            edits = [*chance.choice(old).edits[:2], *edits]
        variants.append(Variant(prompt, tuple(edits)))
    return variants
