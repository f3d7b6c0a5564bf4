"""Writes what was found of the shipped models into their cards: what there is to be studied, the head census, and one
vector taken apart.

    python -m benchmarks.cards [NAME ...]

The tables go into `training.json`, from which the card is drawn, and both are sealed again; weights, tokenizer and lens
stay as they are.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from steerscope.analysis.model.models import Model
from steerscope.analysis.question.experiment import Experiment
from steerscope.analysis.question.injection import Injection
from steerscope.analysis.question.metrics import log_prob
from steerscope.analysis.question.prompts import make_prompts
from steerscope.analysis.results.stats import interval
from steerscope.analysis.seals import seal_folder
from steerscope.analysis.vectors.prompt_pair import prompt_pair
from steerscope.circuits.detect import head_census
from steerscope.circuits.roles import ROLES
from steerscope.loader import load
from steerscope.reports import words
from steerscope.reports.pages.head_census import headline
from steerscope.tinystories.card import CARD, NUMBERS, card
from steerscope.tinystories.dissect import dissect
from steerscope.tinystories.layer_roles import KINDS, agreement_table, text_table
from steerscope.tinystories.layer_steering import part_of
from steerscope.tinystories.topics import TOPICS
from steerscope.tinystories.zoo import prompts, shipped

Study = dict[str, Any]
COEFFICIENT, PROMPTS = 3.0, 12
READ = (" wedding", " bride", " ring", " dress", " dragon")


def there(model: Model) -> Study:
    """Topics, copies and agreement: the loss without a part of the model, and pronouns."""
    table, pronouns = text_table(model, 0, 0.95), agreement_table(model, 0, 0.95)
    ahead = {row.part: row for row in pronouns.itertuples()}
    rows = []
    for part in dict.fromkeys(table["part"]):
        own = {str(row.tokens): row for row in table[table["part"] == part].itertuples()}
        numbers = [
            words.number(own[kind].loss) if part == "nothing" else words.ranged(own[kind], "rise") for kind in KINDS
        ]
        rows.append([str(part), *numbers, words.ranged(ahead[part], "ahead"), words.percent(ahead[part].right)])
    columns = ["silenced", *(f"{kind} (nats)" for kind in KINDS), "agreement (logits)", "agrees at"]
    about = (
        "Loss on stories of the project's grammar by what is predicted (first row), and its rise when a part of "
        "the model "
        "writes its mean at every position. Kinds: "
        + "; ".join(f"{name}: {what}" for name, what in KINDS.items())
        + ". "
        "Agreement: how far the pronoun that agrees with a name is ahead of the other. 95% intervals over "
        "stories and over "
        "sentences. `steerscope tinystories layers` makes these numbers."
    )
    return {"title": "What each layer does on text", "about": about, "says": [], "columns": columns, "rows": rows}


def census(model: Model) -> Study:
    """The largest score of every role."""
    result = head_census(model, sequences=100, topics={topic.name: topic.words for topic in TOPICS})
    rows = []
    for role, own in result.frames["scores"].groupby("role", sort=False):
        best = next(own.loc[[own["score"].idxmax()]].itertuples())
        unit = f" {ROLES[str(role)].unit}".rstrip()
        beyond = f"{int(own['beyond'].sum())} of {len(own)}"
        cells = [words.ranged(best, "score") + unit, words.number(best.threshold), words.number(best.control)]
        rows.append(
            [str(role), str(best.node), *cells, words.number(best.natural), beyond, "yes" if best.holds else "no"]
        )
    columns = ["role", "largest", "score", "threshold", "control", "natural text", "above controls", "claimed"]
    about = (
        f"{result.manifest['sequences']} sequences of {result.manifest['length']} random words said twice, and "
        f"as many in "
        "which nothing is said twice. `steerscope tinystories census` makes these numbers; docs/census.md says "
        "what they "
        "mean."
    )
    return {"title": "What the heads do", "about": about, "says": headline(result), "columns": columns, "rows": rows}


def vector(model: Model) -> Study:
    """` wedding` taken apart: the change of some logits at the end of neutral prompts, by layer and kind of path."""
    made = prompt_pair(model, " wedding", " ", 0)
    injection = Injection(made, COEFFICIENT)
    asked = Experiment(
        model, (injection,), make_prompts(model, prompts("off_topic")[:PROMPTS]), log_prob([" wedding"]), references=0
    )
    result = dissect(asked, tokens=list(READ), share=1.0, audit=False)
    parts, totals = result.frames["parts"], result.frames["totals"]
    parts = parts.assign(part=[part_of(kind, layer) for kind, layer in zip(parts["kind"], parts["layer"], strict=True)])
    order = sorted(parts["part"].unique(), key=lambda name: (name == "final norm", name != "direct", name))
    rows = []
    for token in READ:
        own = parts[parts["token"] == token].pivot_table(
            index="prompt", columns="part", values="change", aggfunc="sum", fill_value=0.0
        )
        own = own.reindex(index=range(PROMPTS), columns=order, fill_value=0.0)
        whole = totals[totals["token"] == token]["change"]
        rows.append([f"`{token}`", _mean(whole), *(_mean(own[name]) for name in order)])
    about = (
        f'{COEFFICIENT:g} × (" wedding" − " ") at L0.resid_pre, front: change of centred logits at the end of '
        f"{PROMPTS} "
        "neutral prompts, mean with 95% interval over prompts, split exactly. Moves and looks: what a layer's "
        "heads move of "
        "what changed, and that they look elsewhere; final norm: its scale, which is temperature and not steering. "
        "`steerscope tinystories dissect` makes these numbers, and names heads and paths."
    )
    columns = ["token", "change", *order]
    return {"title": "One vector taken apart", "about": about, "says": [], "columns": columns, "rows": rows}


def _mean(values: pd.Series) -> str:
    low, high = interval(values.to_numpy(dtype=float))
    return f"{words.signed(values.mean())}{words.between(low, high)}"


def write(folder: Path, studies: list[Study]) -> None:
    """Puts studies into a model's numbers and its card, and seals the folder again."""
    training = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    training["studies"] = {"tables": studies}
    numbers = json.dumps(training, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / NUMBERS).write_bytes(numbers.encode())
    (folder / CARD).write_bytes(card(training).encode())
    seal_folder(folder)


def main() -> None:
    """The shipped models, or those that are named."""
    for name in sys.argv[1:] or shipped():
        model = load(name, selfcheck=False)
        write(shipped()[name], [there(model), census(model), vector(model)])


if __name__ == "__main__":
    main()
