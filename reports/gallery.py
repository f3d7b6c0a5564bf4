"""A gallery: one small page that lists many results, each with its numbers and a link to its own page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from steerscope.reports.page import Branch, templates


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


def gallery(
    title: str, subtitle: str, text: Sequence[str], groups: Mapping[str, Sequence[Card]], footer: str = ""
) -> str:
    """The page, as HTML without a script; cards stand in groups under a heading each."""
    made = templates().get_template("gallery.html")
    html = made.render(title=title, subtitle=subtitle, text=text, groups=groups, footer=footer)
    return html.encode(errors="replace").decode()  # half characters
