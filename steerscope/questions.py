"""The registry: every question that steerscope answers, one line each.

Names only: nothing is imported before it is used, so that help costs no torch. From these lines come the public
names, the commands with their options, the page of a result, the table in docs/questions.md, and the tests that
run over all questions. To add a question, write its file (see CONTRIBUTING.md) and one line here.

This file stands below all rooms: whoever holds a result may ask for its page.
"""

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Question:
    """A question by name: that of its function, of its command, and of the kind of its results.

    Attributes:
        home: module below `steerscope` that holds the function and its `COLUMNS`.
        asks: what it answers, as a question.
        page: module in `steerscope.reports.pages`; the default page, drawn from the columns' roles, where empty.
        experiment: asked as `name(experiment, *, knobs) -> Result`, and so a command by itself; others have a
            command of their own in `steerscope.commands`.
    """

    name: str
    home: str
    asks: str
    page: str = ""
    experiment: bool = True

    @property
    def command(self) -> str:
        return self.name.replace("_", "-")

    @property
    def function(self) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(importlib.import_module(f"steerscope.{self.home}"), self.name)
        return found

    @property
    def columns(self) -> Any:
        """Frames by name, as `steerscope.analysis.results.schema` has them; None for a door to several kinds."""
        return getattr(importlib.import_module(f"steerscope.{self.home}"), "COLUMNS", None)

    @property
    def source(self) -> ast.Module:
        """The home as a syntax tree: what can be known without importing it."""
        path = ROOT.joinpath(*self.home.split(".")).with_suffix(".py")
        return ast.parse(path.read_text(encoding="utf-8"))


def _listed(*questions: Question) -> dict[str, Question]:
    return {question.name: question for question in questions}


QUESTIONS = _listed(
    Question("localize", "analysis.carriers.localize", "Which heads and MLPs carry the vector? By any method."),
    Question(
        "exact", "analysis.carriers.exact", "Which heads and MLPs carry it, by exact patching of every one?", "exact"
    ),
    Question("screen", "analysis.carriers.screen", "The same in a large model: ranked by gradients, verified?", "screen"),
    Question("attribute", "analysis.carriers.attribute", "What do gradients say that each node carries?", "attribute"),
    Question("shapley", "analysis.carriers.shapley", "How is the effect shared out; who stands in for whom?", "shapley"),
    Question("writers", "analysis.origin.writers", "Which nodes wrote the vector?", "writers"),
    Question("sparsify", "analysis.origin.sparsify", "How few of its dimensions keep the effect?", "sparsify"),
    Question(
        "freeze_attention", "analysis.frozen.freeze_attention",
        "Does it act through what heads move, or through where they look?", "freeze_attention",
    ),
    Question("edges", "analysis.routes.edges", "Which way does the effect take through the model?", "edges"),
    Question("path_effect", "analysis.routes.path_effect", "What flows straight from one node to another?", "path_effect"),
    Question("by_position", "analysis.routes.by_position", "Where in the prompt do carriers act?", "by_position"),
    Question("self_repair", "analysis.routes.self_repair", "Who makes up for a carrier that is gone?", "self_repair"),
    Question("trace", "analysis.trace", "How does the vector travel through the norms, layer by layer?", "trace"),
    Question("breakdown", "analysis.breakdown.breakdown", "How large may a coefficient be, and what breaks then?", "breakdown"),
    Question("sweep", "analysis.sweeps.runner", "Which nodes respond to parts of the vector?", "sweep", experiment=False),
    Question("train_lens", "analysis.lens.train", "What would each layer predict: a tuned lens?", "lens", experiment=False),
)


def page_of(kind: str) -> Any:
    """The module that draws a kind of result: `headline(result)` and `page(result)`; the default page for kinds unknown."""
    question = QUESTIONS.get(kind)
    page = question.page if question is not None else ""
    return importlib.import_module(f"steerscope.reports.pages.{page or 'default'}")
