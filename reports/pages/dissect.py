"""The report of `dissect`: every bit of a change of logits with its address, from the injection to the tokens."""

import re
from collections.abc import Sequence

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.figures.routes import bands
from steerscope.reports.page import Choice, Page, Panel, Piece, Section, Table
from steerscope.reports.pages.common import framed, legend, model_name
from steerscope.reports.pages.dissect_audits import audits, composition, downloads, glance
from steerscope.reports.pages.dissect_tree import bars, tree
from steerscope.reports.pages.dissect_views import OWN, Target, View, views
from steerscope.reports.pages.dissect_words import carriers, readout, summary, tail, told, unit
from steerscope.reports.reading import drawing
from steerscope.reports.routes import FINAL, last_move
from steerscope.reports.theme import visible

SIDES = 4  # tokens of each side in a picture
ROWS = 4000  # of all trees of a page together
LEAST, MOST = 12, 150  # of one tree
SPECIAL = re.compile(r"<\|?[^<>|]*\|?>")  # a token that begins a text and is none of it
READING = [
    "An address is read from the logits back to the injection: L1M<-L1H3.ov<-4<-L0H2.k<-1 is what the MLP of layer 1 "
    "writes since head 3 of its layer moves from position 4 what head 2 of layer 0 wrote there, since the key of "
    "position 1 changed. ov is what a head moves, k and q how it looks elsewhere.",
    "Every operation is replaced by the exact secant of the two runs, so parts add up to what two plain passes "
    "measure. A path is a product of secants, and not what the model would do if that path alone were cut; large "
    "paths may cancel, which the mass shows.",
]
TREE = (
    "What was written last, then what it read: a click opens a row into rows that add up to it, and changes neither it "
    "nor its neighbours. Bars have one scale; orange raises the token, blue lowers it."
)
TEXT = (
    "Under each token stands what is moved from it, by the last head on the way that moves between positions, in "
    "{unit}; orange raises the token that is read, blue lowers it."
)
OVERALL = (
    "Shares of all that is written last, over all prompts and tokens, whatever cancels. What stands here is large, "
    "whether it helps the vector's words or not."
)
NEURONS = (
    "Those with the largest flow, and all others in one row. What a neuron writes here goes straight to the logits: of "
    "one MLP these add up to its row above. All paths are those through it at any position, with scales shared out."
)
PICTURE = (
    "Bands are as wide as what takes them; orange raises the token on the right, blue lowers it. What cancels is "
    "drawn, so a token can be reached by more than its change. Smaller paths are those that were not opened."
)


@drawing
def headline(result: Result) -> list[str]:
    """The largest changes and their parts; the final norm apart."""
    return summary(result, views(result))


@drawing
def page(result: Result) -> Page:
    """All sections, from a saved result alone."""
    found, manifest = views(result), result.manifest
    labels = list(dict.fromkeys(i["vector"]["label"] for i in manifest.get("injections", []))) or ["the vector"]
    count = len({view.prompt for view in found})
    subtitle = f"{words.injection(manifest)} · {count} prompt{'s' * (count != 1)} · {readout(result)} · exact secants"
    trees = sum(len(view.targets) for view in found)
    rows = min(MOST, max(LEAST, ROWS // max(trees, 1)))
    places = [Choice(_named(view, found), _place(view, unit(result), rows)) for view in found]
    return framed(
        result,
        f"What does {words.listing(words.some(labels))} do inside {model_name(result)}?",
        subtitle,
        summary(result, found),
        [
            *_overall(found),
            *chosen("Prompt by prompt", "Prompt", places),
            *composition(result),
            *audits(result),
            legend(result, READING),
        ]
        + [downloads(result)],
        glance(result, found),
    )


def _overall(found: Sequence[View]) -> list[Section]:
    """Who writes it, over several places."""
    return [Section("Over all prompts", [OVERALL], branches=bars(carriers(found)))] if len(found) > 1 else []


def chosen(title: str, asks: str, choices: Sequence[Choice]) -> list[Section]:
    """What one chooses from; the one thing by itself, where there is no choice."""
    if len(choices) > 1:
        return [Section(title, asks=asks, choices=choices)]
    return [section for choice in choices for section in choice.sections]


def _named(view: View, every: Sequence[View]) -> str:
    """A place among others: its prompt, and the position where a prompt has several."""
    text = words.printable("".join(view.tokens[SPECIAL.fullmatch(view.tokens[0]) is not None :]).strip())
    short = text if len(text) <= 70 else f"{text[:45]} … {text[-20:]}"
    several = sum(other.prompt == view.prompt for other in every) > 1
    return f"{view.prompt + 1}: {short}" + (f" (after “{tail(view)}”)" if several else "")


def _place(view: View, in_: str, rows: int) -> list[Section]:
    """The picture of a place, then its tokens."""
    where = f"after “{tail(view)}”"
    if all(target.nothing for target in view.targets):
        return [Section(f"Nothing changes {where}", ["The injection changes no logit that is read here."])]
    panel = Panel(f"What changes {where}, in {in_}", bands(view.place, view.position, _both_sides(view), in_))
    tokens = [Choice(_titled(target, in_), _token(view, target, in_, rows)) for target in view.targets]
    return [Section("From the injection to the tokens", [PICTURE], [panel]), *chosen("Token by token", "Token", tokens)]


def _both_sides(view: View) -> list[Target]:
    """The vector's own tokens, those that gain most and those that lose most."""
    order = sorted(view.targets, key=lambda target: -target.change)
    shown = [target for target in order if target.change > 0][:SIDES]
    shown += [target for target in order if target.change < 0][-SIDES:]
    return shown + [target for target in view.targets if target.chosen == OWN and target not in shown]


def _titled(target: Target, in_: str) -> str:
    why = ", the vector's own" * (target.chosen == OWN)
    return f"{visible(target.token)}  {words.signed(target.change)} {in_}{why}"


def _token(view: View, target: Target, in_: str, rows: int) -> list[Section]:
    title = f"{visible(target.token)}: {words.signed(target.change)} {in_}"
    found = [Section(title, told(view, target, in_))]
    if target.nothing:
        return found
    pieces, rest = _pieces(view, target, in_)
    return [
        *found,
        Section("Where it is moved from", [TEXT.format(unit=in_), rest], pieces=pieces),
        Section("What writes it", [TREE, _mass(target, in_)], branches=tree(view.place, target, rows)),
        *_neurons(target, in_),
    ]


def _neurons(target: Target, in_: str) -> list[Section]:
    """The neurons that write most, folded."""
    if not target.neurons:
        return []
    columns = ["neuron", "clean", "steered", f"writes here ({in_})", f"all paths through it ({in_})"]
    cells = [
        [r.name, words.number(r.clean), words.number(r.steered), words.signed(r.change), words.signed(r.flow)]
        for r in target.neurons
    ]
    return [Section("Neurons", [NEURONS], table=Table(columns, cells, frozenset(columns[1:])), folded=True)]


def _mass(target: Target, in_: str) -> str:
    size = f"All rows of the first level together have the size {words.number(target.mass)} {in_}, the total is "
    shares = " Shares are of the total." if target.clear else " The total is too small beside that for shares of it."
    return f"{size}{words.signed(target.change)}.{shares}"


def _pieces(view: View, target: Target, in_: str) -> tuple[list[Piece], str]:
    """The prompt's tokens with what is moved from each; and what is not moved from any."""
    moved = [0.0] * len(view.tokens)
    rest = {"the final norm's scale": target.final, "what stands at the position itself, or was not opened": 0.0}
    for path, change in target.ends.items():
        position = last_move(path)
        if 0 <= position < len(moved):
            moved[position] += change
        elif path != FINAL:
            rest["what stands at the position itself, or was not opened"] += change
    largest = max(map(abs, moved), default=0.0) or 1.0
    pieces = []
    for position, (token, change) in enumerate(zip(view.tokens, moved, strict=True)):
        about = [f"{view.place.at(position)}: {words.signed(change)} {in_} moved from here"]
        about += ["something is injected here"] * (position in view.injected)
        about += ["the change is read here"] * (position == view.position)
        mark = "●" * (position in view.injected)
        value = _under(change) if position <= view.position else ""
        pieces.append(Piece(f"{mark}{visible(token)}", value, change / largest, "; ".join(about)))
    left = words.listing([f"{words.signed(change)} is {what}" for what, change in rest.items() if abs(change) > 0.005])
    return pieces, f"● marks what is injected. {f'Beside it, {left}.' if left != 'none' else ''}".strip()


def _under(change: float) -> str:
    return f"{'+' if change >= 0.005 else ''}{words.short(change)}"
