"""Every question about effects, asked of a small random model: what tests of pages begin with."""

from collections.abc import Callable
from pathlib import Path

from checkpoints import save_gpt2
from small_circuits import FILE

from steerscope.analysis.carriers.attribute import attribute
from steerscope.analysis.carriers.exact import exact
from steerscope.analysis.carriers.screen import screen
from steerscope.analysis.carriers.shapley import shapley
from steerscope.analysis.frozen.freeze_attention import freeze_attention
from steerscope.analysis.loading.loading import load
from steerscope.analysis.origin.sparsify import sparsify
from steerscope.analysis.origin.writers import writers
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.result import Result
from steerscope.analysis.routes.by_position import by_position
from steerscope.analysis.routes.edges import edges
from steerscope.analysis.routes.path_effect import path_effect
from steerscope.analysis.routes.self_repair import self_repair
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.circuits.map_effect import map_effect

RUNS: dict[str, Callable[[Experiment], Result]] = {
    "exact": lambda asked: exact(asked, completions=1),
    "attribute": lambda asked: attribute(asked, sample=5),
    "screen": lambda asked: screen(asked, top=5, sample=2),
    "shapley": lambda asked: shapley(asked),
    "writers": lambda asked: writers(asked),
    "freeze_attention": lambda asked: freeze_attention(asked),
    "edges": lambda asked: edges(asked, verify=5, sample=3),
    "path_effect": lambda asked: path_effect(asked, ["injection", "L0H1"], ["L1H2.q", "L1M", "logits"]),
    "by_position": lambda asked: by_position(asked, nodes=["L0M", "L1H1"]),
    "self_repair": lambda asked: self_repair(asked, ["L0M", "L0H1", "L0H2"]),
    "map_effect": lambda asked: map_effect(asked, str(FILE), sets=5, permutations=20, controls=2),
    "sparsify": lambda asked: sparsify(asked, fractions=[0.1, 0.5], steps=2),
}


def small_results(folder: Path) -> dict[str, Result]:
    """By question; the vector of `writers` is recorded after the first layer."""
    save_gpt2(folder)
    model = load(folder, name="tiny")
    prompts = make_prompts(model, ["One day Lily saw a dragon", "Tom had a red ball", "The dog ran to the park"])
    late, first = (Injection(prompt_pair(model, " wedding", " ship", layer), 3.0) for layer in (1, 0))
    asked = {at: Experiment(model, (at,), prompts, references=2) for at in (late, first)}
    return {kind: run(asked[late if kind == "writers" else first]) for kind, run in RUNS.items()}
