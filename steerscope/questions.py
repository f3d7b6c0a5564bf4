"""The registry: every question that steerscope answers, one line each.

Names only: nothing is imported before it is used, so that help costs no torch. From these lines come the public
names, the commands with their options, the page of a result, the table in docs/questions.md, and the tests that
run over all questions. To add a question, write its file (see CONTRIBUTING.md) and one line here.

This file stands below all rooms: whoever holds a result may ask for its page.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question by name: that of its function, of its command, and of the kind of its results.

    Attributes:
        home: module below `steerscope` that holds the function and its `COLUMNS`.
        asks: what it answers, as a question.
        page: module in `steerscope.reports.pages`; the default page, drawn from the columns' roles, where empty.
        door: the question whose command asks this one, too (a method of it); its own where empty.
        experiment: asked as `name(experiment, *, knobs) -> Result`, and so a command by itself; others have a
            command of their own in `steerscope.commands`.
        group: the group of commands that its command stands in; directly below `steerscope` where empty.
        layer: where its command records and injects if none is given; None where one must be.
        results: whether it can be asked of a `Result`, too.
    """

    name: str
    home: str
    asks: str
    page: str = ""
    door: str = ""
    experiment: bool = True
    group: str = ""
    layer: int | None = None
    results: bool = False

    @property
    def command(self) -> str:
        """What one types after `steerscope`."""
        if self.name in OTHER_COMMANDS:
            return OTHER_COMMANDS[self.name]
        return f"{self.group} {(self.door or self.name).replace('_', '-')}".strip()

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"steerscope.{self.home}")

    @property
    def function(self) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.module, self.name)
        return found

    @property
    def columns(self) -> Any:
        """`Frames` (`steerscope.analysis.results.schema`): what columns mean; None for a door to several kinds."""
        return getattr(self.module, "COLUMNS", None)

    @property
    def tables(self) -> frozenset[str]:
        """Names of the tables that its results may have."""
        members = [self, *(other for other in QUESTIONS.values() if other.door == self.name)]
        return frozenset(name for member in members for name in member.columns or ())

    @property
    def source(self) -> Path:
        """The file of the home: what can be read without importing it."""
        return Path(__file__).parent.joinpath(*self.home.split(".")).with_suffix(".py")


OTHER_COMMANDS = {
    "sweep": "sweep run",
    "train_lens": "lens train",
    "compare_vectors": "vectors compare",
    "head_census": "circuits detect",
    "layer_study": "tinystories layers",
    "scrub": "circuits scrub",
    "find_circuit": "circuits find",
    "compare_variants": "tinystories compare",
    "task_vector": "tinystories task-vector",
    "map_effect": "circuits map",
    "stress": "circuits stress",
}
_LINES: tuple[tuple[Any, ...], ...] = (
    ("localize", "analysis.carriers.localize", "Which heads and MLPs carry the vector? By any method."),
    ("exact", "analysis.carriers.exact", "Which carry it, by exact patching of every one?", "exact", "localize"),
    ("screen", "analysis.carriers.screen", "Which, in a large model? Ranked, then verified.", "screen", "localize"),
    ("attribute", "analysis.carriers.attribute", "What do gradients say of each node?", "attribute", "localize"),
    ("shapley", "analysis.carriers.shapley", "How is the effect shared out among nodes?", "shapley", "localize"),
    ("writers", "analysis.origin.writers", "Which nodes wrote the vector?", "writers"),
    ("sparsify", "analysis.origin.sparsify", "How few of its dimensions keep the effect?", "sparsify"),
    ("freeze_attention", "analysis.frozen.freeze_attention", "Through values or through looking?", "freeze_attention"),
    ("edges", "analysis.routes.edges", "Which way does the effect take through the model?", "edges"),
    ("path_effect", "analysis.routes.path_effect", "What flows straight from one node to another?", "path_effect"),
    ("by_position", "analysis.routes.by_position", "Where in the prompt do carriers act?", "by_position"),
    ("self_repair", "analysis.routes.self_repair", "Who makes up for a carrier that is gone?", "self_repair"),
    ("trace", "analysis.trace", "How does the vector travel through the norms, layer by layer?", "trace"),
    (
        *("dissect", "tinystories.dissect", "Which paths does it take, exactly, in one or two layers?", "dissect"),
        *("", True, "tinystories", 0),
    ),
    ("breakdown", "analysis.breakdown.breakdown", "How large may a coefficient be, and what breaks?", "breakdown"),
    ("sweep", "analysis.sweeps.runner", "Which nodes respond to parts of the vector?", "sweep", "", False),
    ("compare_vectors", "analysis.origin.compare_vectors", "How alike are vectors?", "compare_vectors", "", False),
    ("compare_variants", "tinystories.compare", "Does the activation function matter?", "compare", "", False),
    ("task_vector", "tinystories.task_vector", "Learned weights or an added vector?", "task_vector", "", False),
    ("train_lens", "analysis.lens.train", "What would each layer predict? A tuned lens.", "lens", "", False),
    ("head_census", "circuits.detect", "What does each attention head do?", "head_census", "", False),
    (
        *("map_effect", "circuits.map_effect", "Which known circuits does it go through?", "map_effect"),
        *("", True, "circuits", None, True),
    ),
    ("scrub", "circuits.scrub", "How much of its answers does a hypothesis explain?", "scrub", "", False),
    ("find_circuit", "circuits.find_circuit", "Which edges do a task, or carry a vector?", "find_circuit", "", False),
    ("layer_study", "tinystories.layers", "What does each layer do, under steering too?", "layer_study", "", False),
    ("stress", "circuits.stress", "Does a circuit survive steering?", "stress", "", False),
)
QUESTIONS: dict[str, Question] = {line[0]: Question(*line) for line in _LINES}


def page_of(kind: str) -> Any:
    """The module that draws a kind of result: `headline(result)` and `page(result)`. The default for unknown kinds."""
    question = QUESTIONS.get(kind)
    page = question.page if question is not None else ""
    return importlib.import_module(f"steerscope.reports.pages.{page or 'default'}")
