"""Variants of one small model that differ in one thing: activation function, norm, or order of attention and MLP.

All are native models (`steerscope.analysis.loading.native`), trained for as many steps on the same stories of the
project's grammar, so that nothing but that thing and the seed differs. A seed decides the first weights and the order
of the batches; the stories and the tokenizer are the same for all.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from steerscope.analysis.errors import BadArgument
from steerscope.analysis.gate import Count, Seed, Within, gated

from .card import NUMBERS, read_card
from .config import TrainConfig, complete, recorded
from .run import Corpus
from .topics import TOPICS
from .train import train

VARIANTS: dict[str, dict[str, Any]] = {
    "gelu": {},
    "relu": {"act": "relu"},
    "silu": {"act": "silu"},
    "solu": {"act": "solu"},
    "RMSNorm": {"norm": "RMS"},
    "no norm": {"norm": "none"},
    "parallel": {"parallel": True},
}
BASE = "gelu"
FACTORS = {"act": "activation", "norm": "norm", "parallel": "order"}  # what a variant may differ in
SAME = ("out", "threads", "evaluate_every", "checkpoint_every")  # settings that make no other model


@gated
@dataclass(frozen=True)
class Recipe:
    """All that the models of a study have in common, and what they are asked.

    Attributes:
        variants: names of those that are trained; the base is always among them.
        seeds: models of each variant.
        first: the first seed; new ones test what others have suggested.
        stories: of the grammar, one in 23 held out.
        concepts: topics of the grammar whose vectors are added.
        openings: beginnings of stories that effects are measured on.
        windows, tokens: of held-out stories, that damage is measured on.
    """

    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: Annotated[int, Within(2, 100)] = 3
    layers: Annotated[int, Within(1, 8)] = 2
    width: Annotated[int, Within(4, 1024)] = 64
    heads: Count = 4
    context: Annotated[int, Within(16, 1024)] = 128
    vocabulary: Annotated[int, Within(257, 65_536)] = 1024
    stories: Annotated[int, Within(50, 100_000)] = 3000
    steps: Count = 400
    batch: Count = 16
    learning_rate: Annotated[float, Within(0, 1, open=True)] = 4e-3
    concepts: tuple[str, ...] = ("wedding", "dragon", "ship", "garden", "snow", "music")
    openings: Count = 12
    windows: Count = 8
    tokens: Annotated[int, Within(4, 1024)] = 48
    first: Seed = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.variants) - set(VARIANTS))
        if unknown or len(set(self.variants)) != len(self.variants):
            raise BadArgument(
                f"variants={', '.join(self.variants)}; expected some of {', '.join(VARIANTS)}, each once; choose these"
            )
        names = [topic.name for topic in TOPICS]
        if len(self.concepts) < 2 or not set(self.concepts) <= {*names}:
            raise BadArgument(
                f"concepts={', '.join(self.concepts)}; expected at least two topics of {', '.join(names)}; choose these"
            )
        object.__setattr__(self, "variants", tuple(dict.fromkeys((BASE, *self.variants))))

    def describe(self) -> dict[str, Any]:
        """For the manifest, and to tell one study from another."""
        return asdict(self) | {"variants": list(self.variants), "concepts": list(self.concepts)}


def factor(variant: str) -> str:
    """What a variant differs from the base in; empty for the base."""
    return next((FACTORS[name] for name in VARIANTS[variant]), "")


def config(recipe: Recipe, variant: str, seed: Seed, out: str | Path) -> TrainConfig:
    """The settings of one model."""
    different: dict[str, Any] = {"act": "gelu"} | VARIANTS[variant]
    return TrainConfig(
        text=(),
        out=str(out),
        text_source="stories of the project's own grammar",
        topic_stories=recipe.stories,
        corpus_seed=0,
        d_model=recipe.width,
        n_heads=recipe.heads,
        n_layers=recipe.layers,
        context=recipe.context,
        vocabulary=recipe.vocabulary,
        batch=recipe.batch,
        steps=recipe.steps,
        warmup=max(1, recipe.steps // 10),
        learning_rate=recipe.learning_rate,
        optimizer="adamw",
        bf16=False,
        evaluate_every=recipe.steps,
        checkpoint_every=max(1, recipe.steps // 2),
        seed=seed,
        **different,
    )


def trained(settings: TrainConfig, corpus: Corpus | None = None, progress: Any = None) -> Path:
    """The folder of a model of these settings: the one that is there, or one that is trained now.

    Raises:
        BadArgument: a model of other settings, or of another corpus, is there.
        DamagedRun: a file of it has changed since it was written.
        OutputExists, DiskFull, CannotWrite: as `train`.
    """
    out = Path(settings.out)
    if not (out / NUMBERS).is_file():
        return train(settings, corpus=corpus, progress=progress)
    there = read_card(out)
    known = complete(there.get("config"))
    changed = [name for name, value in recorded(settings).items() if name not in SAME and known.get(name) != value]
    if not changed and corpus is not None and there.get("corpus") != corpus.hash:
        changed = ["text"]
    if changed:
        raise BadArgument(
            f"{str(out)!r} holds a model of other settings of {', '.join(sorted(changed))}; expected the same; use "
            "them, or choose another folder"
        )
    return out
