"""A gallery of dissections: one small page that lists many vectors, each with its numbers and a link to its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.page import Branch, templates
from steerscope.reports.pages.dissect_tree import bars
from steerscope.reports.pages.dissect_views import views
from steerscope.reports.pages.dissect_words import carriers, gap, in_first
from steerscope.reports.routes import FINAL
from steerscope.reports.theme import visible

EXPLAINED = (
    "Every vector is added to the same prompts, and the change of the logits after each is split exactly into paths. "
    "Bars are shares of all that was written last, whatever cancels; the final norm's scale, which is temperature and "
    "not steering, has none. A name leads to the vector's own report."
)


@dataclass(frozen=True)
class Card:
    """A result in the gallery.

    Attributes:
        about: how it was made. numbers: (name, value, note). sentences: what was found.
        branches: a few bars. link: where its page is, relative to the gallery.
    """

    name: str
    about: str
    numbers: Sequence[tuple[str, str, str]]
    sentences: Sequence[str]
    branches: Sequence[Branch]
    link: str

    @property
    def href(self) -> str:
        return quote(self.link)


def card(name: str, about: str, result: Result, numbers: Sequence[tuple[str, str, str]], link: str) -> Card:
    """The card of a dissection.

    Args:
        numbers: what is known of the vector beside its dissection.
    """
    found = views(result)
    shares = carriers(found)
    numbers = [*numbers, ("temperature", words.percent(shares.get(FINAL, 0.0)), "of all that is written")]
    numbers.append(("conservation", words.number(gap(result)), "largest gap of the parts"))
    return Card(name, about, numbers, [*_gainers(result), *in_first(result, found)], bars(shares), link)


def _gainers(result: Result) -> list[str]:
    """The tokens that are among those that gain most after several prompts."""
    table = result.frames["totals"]
    count = table.loc[table["chosen"] == "gains", "token"].value_counts()
    often = [f"“{visible(str(token))}” ({n})" for token, n in count.items() if n > 1]
    prompts = table["prompt"].nunique()
    return (
        [f"Most often among those that gain most, of {prompts} prompts: {words.listing(often[:4])}."] if often else []
    )


def gallery(title: str, subtitle: str, groups: Mapping[str, Sequence[Card]], footer: str = "") -> str:
    """The page, as HTML without a script; cards stand in groups under a heading each."""
    made = templates().get_template("gallery.html")
    html = made.render(title=title, subtitle=subtitle, text=[EXPLAINED], groups=groups, footer=footer)
    return html.encode(errors="replace").decode()  # half characters
