"""The tasks of the shipped circuits: templates, slots, answers and corruptions, from words of our own.

Templates and metrics are those of the sources that each task names; words are in `data/words.toml`.
"""

from functools import partial
from typing import Any

import pandas as pd
from numpy.random import Generator

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadCircuit
from steerscope.analysis.gate import gated

from .task import Pair, Task
from .toys.tasks import LETTERS, NAMES
from .words import Words

IOI = (
    "When{a} and{b} went to the{place},{s2} gave a{object} to",
    "Then,{a} and{b} had a long talk at the{place}. Afterwards{s2} gave a{object} to",
    "While{a} and{b} were walking to the{place},{s2} handed a{object} to",
    "After{a} and{b} came back from the{place},{s2} decided to give a{object} to",
    "The{place} was quiet when{a} and{b} met there, and{s2} brought a{object} for",
    "Yesterday{a} and{b} found a{object} at the{place}, and{s2} offered it to",
)
MINIMAL = "{a}{b} MID{s2} END"


def _some(rng: Generator, of: Any, count: int) -> list[Any]:
    """Different ones of a list."""
    return [of[i] for i in rng.permutation(len(of))[:count]]


def _one(rng: Generator, of: Any) -> Any:
    return of[int(rng.integers(len(of)))]


def _ioi(words: Words, rng: Generator, flip: bool = False, minimal: bool = False) -> Pair:
    names = words.known(NAMES) if minimal else words.pool("women", "men", fewest=8)
    io, s, *others = _some(rng, names, 5)
    first, second = (io, s) if rng.random() < 0.5 else (s, io)
    clean = {"a": first, "b": second, "s2": s}
    if not minimal:
        clean |= {"place": _one(rng, words.single("places")), "object": _one(rng, words.single("objects"))}
    changed = {"s2": io} if flip else dict(zip(("a", "b", "s2"), others, strict=True))
    mine = {"IO": "a" if first == io else "b", "S1": "a" if first == s else "b", "S2": "s2"}
    text = MINIMAL if minimal else _one(rng, IOI)
    return Pair(text, clean, {**clean, **changed}, (io,), (s,), mine, ("a", "b", "s2"))


def _greater_than(words: Words, rng: Generator) -> Pair:
    """Years that are greater and those that are not, by the token in which they begin to differ."""
    century, year = int(rng.integers(11, 18)), int(rng.integers(2, 98))
    text = "The{noun} lasted from the year " + str(century) + "{year} to the year " + str(century)
    clean = {"noun": _one(rng, words.single("events")), "year": f"{year:02d}"}
    first = words.years(century)
    above, below = set(first[year + 1 :]), set(first[:year])
    both = {*above & below, first[year]}
    return Pair(
        text,
        clean,
        {**clean, "year": "01"},
        tuple(sorted(above - both)),
        tuple(sorted(below - both)),
        {"YY": "year"},
        ("noun",),
    )


def _docstring(words: Words, rng: Generator) -> Pair:
    names = _some(rng, words.single("arguments", 9), 9)
    a, b, c, d, e, f, *others = names
    nouns = _some(rng, words.single("nouns", 6), 6)
    text = (
        f'def run(self,{{a}},{{b}},{{c}},{{d}},{{e}},{{f}}):\n    """{nouns[0].strip()}{nouns[1]}\n\n'
        f"    :param{{c2}}:{nouns[2]}{nouns[3]}\n    :param{{d2}}:{nouns[4]}{nouns[5]}\n    :param"
    )
    clean = {"a": a, "b": b, "c": c, "d": d, "e": e, "f": f, "c2": c, "d2": d}
    changed = dict(zip(("c", "d", "e"), others, strict=True))  # of the signature
    at = {"C": "e", "A": "c", "B": "d", "A in the docstring": "c2", "B in the docstring": "d2"}
    return Pair(text, clean, {**clean, **changed}, (e,), (a, b, c, d, f), at, tuple(clean))


def _acronyms(words: Words, rng: Generator) -> Pair:
    """The third letter, after the first two."""
    one, two, three, *others = _some(rng, words.single("capitalised", 6), 6)
    letters = [word.strip()[0] for word in (one, two, three)]
    clean = {"a": one, "b": two, "c": three}
    changed = dict(zip("abc", others, strict=True))
    rest = tuple(chr(65 + i) for i in range(26) if chr(65 + i) != letters[2])
    text = "The{a}{b}{c} (" + letters[0] + letters[1]
    return Pair(
        text, clean, changed, (letters[2],), rest, dict(zip(("C1", "C2", "C3"), "abc", strict=True)), tuple("abc")
    )


def _continuation(words: Words, rng: Generator, items: str) -> Pair:
    """Four people, one after another."""
    order = words.single(items, 6)
    first = int(rng.integers(len(order) - 3))
    x = order[first : first + 4]
    names = _some(rng, words.pool("women", "men", fewest=8), 4)
    text = (
        "".join(f"{name} was born in{{x{i}}}." for i, name in enumerate(names[:3])).strip() + f"{names[3]} was born in"
    )
    clean = {f"x{i}": item for i, item in enumerate(x[:3])}
    changed = {f"x{i}": item for i, item in enumerate(_some(rng, order, 3))}
    return Pair(text, clean, changed, (x[3],), (x[2],), {"x1": "x0", "x2": "x1", "x3": "x2"}, tuple(clean))


def _agreement(words: Words, rng: Generator, across: bool = False) -> Pair:
    nouns = words.pairs("countable")
    one, other = _some(rng, nouns, 2)
    which = int(rng.integers(2))
    start = _one(rng, ("The", "Yesterday the", "I think that the", "In the end the", "Of course the", "He said the"))
    text = start + ("{noun} near the{between}" if across else "{noun}")
    clean = {"noun": one[which]} | ({"between": other[1 - which]} if across else {})
    singular, plural = (" is", " was", " has"), (" are", " were", " have")
    sides = (singular, plural) if which == 0 else (plural, singular)
    return Pair(text, clean, {**clean, "noun": one[1 - which]}, *sides, {"subject": "noun"}, tuple(clean))


def _gender(words: Words, rng: Generator) -> Pair:
    text = _one(
        rng,
        (
            "So{name} is a really great friend, isn't",
            "So{name} is coming to the party tonight, isn't",
            "I think{name} was late again this morning, wasn't",
        ),
    )
    she = bool(rng.integers(2))
    own, other = (words.single("women"), words.single("men")) if she else (words.single("men"), words.single("women"))
    sides = ((" she",), (" he",)) if she else ((" he",), (" she",))
    return Pair(text, {"name": _one(rng, own)}, {"name": _one(rng, other)}, *sides, {"name": "name"}, ("name",))


def _sentiment(words: Words, rng: Generator, simple: bool = False) -> Pair:
    good = bool(rng.integers(2))
    praise, blame = ([words.single(name, 2) for name in names] for names in (("good", "liked"), ("bad", "disliked")))
    own, other = (praise, blame) if good else (blame, praise)
    clean, changed = ({"adjective": _one(rng, side[0]), "verb": _one(rng, side[1])} for side in (own, other))
    if simple:
        text = "I thought this movie was{adjective}, I{verb} it. \nConclusion: This movie is"
    else:
        text = (
            "I thought this movie was{adjective}. I{verb} it, even though the sequel was{sequel}. \n"
            "Conclusion: This movie is"
        )
        clean, changed = clean | {"sequel": _one(rng, other[0])}, changed | {"sequel": _one(rng, own[0])}
    sides = ((" great", " good"), (" terrible", " bad")) if good else ((" terrible", " bad"), (" great", " good"))
    return Pair(text, clean, changed, *sides, {name: name for name in clean}, tuple(clean))


def _copy_suppression(words: Words, rng: Generator) -> Pair:
    """A saying; corrupted, the word that copying would give is another one."""
    start, answer, copied = _one(rng, words.sayings())
    where = start.index(copied) if copied in start else start.lower().index(copied)
    text = start[:where].rstrip() + "{word}" + start[where + len(copied) :]
    space = " " if where else ""
    other = _one(rng, [noun for noun in words.single("nouns") if noun.strip() not in start])
    clean, changed = f"{space}{start[where : where + len(copied)]}", other if space else other.strip().capitalize()
    start = _one(rng, ("", "As they say: ", "My father told me: ", "Remember: ", "It is true: "))
    return Pair(start + text, {"word": clean}, {"word": changed}, (f" {answer}",), (f" {copied}",), {"copied": "word"})


def _induction(words: Words, rng: Generator, letters: bool = False) -> Pair:
    """Random words, repeated up to a random place: at several lengths, or a model may go by position."""
    lists = ("nouns", "objects", "places", "capitalised", "arguments")
    pool = words.known(tuple(LETTERS), fewest=18) if letters else words.pool(*lists, fewest=40)
    size = int(rng.integers(*((6, 10) if letters else (8, 20))))
    row = _some(rng, pool, size)
    stop = int(rng.integers(2, size - 1))
    clean = {f"r{i}": word for i, word in enumerate(row)}
    others = _some(rng, [word for word in pool if word not in row], size)
    changed = {f"r{i}": word for i, word in enumerate(others)}
    text = "".join(f"{{r{i}}}" for i in range(size)) + "".join(row[:stop])
    again = {"first copy": f"r{stop - 1}", "answer": f"r{stop}"}
    return Pair(text, clean, changed, (row[stop],), (_one(rng, row[:stop] + row[stop + 1 :]),), again, tuple(clean))


TOYS = "the shipped toys (docs/ground_truth.md)"
WANG, LAN, TIGGES = "Wang et al. 2022, arXiv:2211.00593", "Lan et al. 2023, arXiv:2311.04131", "arXiv:2310.15154"
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("ioi", "the name that is not the subject", "three other names", _ioi, WANG),
        Task(
            "ioi-flip", "the name that is not the subject", "the other name as subject", partial(_ioi, flip=True), WANG
        ),
        Task("greater-than", "a later year", "the first year ends in 01", _greater_than, "arXiv:2305.00586"),
        Task(
            "docstring",
            "the next argument",
            "other arguments in the signature",
            _docstring,
            "alignmentforum u6KXXmKFbXfWzoAXn",
        ),
        Task(
            "induction",
            "what followed the last time",
            "another first copy",
            _induction,
            "Olsson et al. 2022, arXiv:2209.11895",
        ),
        Task(
            "copy-suppression",
            "a word that is not copied",
            "another word to copy",
            _copy_suppression,
            "arXiv:2310.04625",
        ),
        Task("acronyms", "the third letter of an acronym", "three other words", _acronyms, "arXiv:2405.04156"),
        *(
            Task(
                f"continuation-{name}",
                f"the next of some {name}",
                "in no order",
                partial(_continuation, items=own),
                LAN,
            )
            for name, own in (("numerals", "numerals"), ("words", "numbers"), ("months", "months"))
        ),
        Task(
            "agreement",
            "a verb in the number of its subject",
            "the subject in the other number",
            _agreement,
            "arXiv:2506.22105",
        ),
        Task(
            "agreement-across",
            "the same, across a noun of the other number",
            "the subject in the other number",
            partial(_agreement, across=True),
            "arXiv:2506.22105",
        ),
        Task("ioi-minimal", "as ioi, in six tokens", "three other names", partial(_ioi, minimal=True), TOYS),
        Task("induction-letters", "as induction", "another first copy", partial(_induction, letters=True), TOYS),
        Task("gender", "he or she, by a name", "a name of the other gender", _gender, "Mathwin and Corlouer 2023"),
        Task("sentiment", "the verdict on a film, by two opinions", "both opinions reversed", _sentiment, TIGGES),
        Task(
            "sentiment-simple",
            "the verdict on a film",
            "the opinion reversed",
            partial(_sentiment, simple=True),
            TIGGES,
        ),
    )
}


@gated(error=BadCircuit)
def task(name: str) -> Task:
    """A task by name; call it with a model, `task("ioi")(model, n=64, seed=0)`.

    Raises:
        BadCircuit: there is no such task.
    """
    if name not in TASKS:
        raise BadCircuit(f"no task {brief(repr(name), 80)}; expected one of {', '.join(TASKS)}; choose one")
    return TASKS[name]


@gated
def tasks() -> pd.DataFrame:
    """One row for each task: name, what is to be said, what is corrupted, source."""
    rows = [(t.name, t.title, t.corruption, t.source) for t in TASKS.values()]
    return pd.DataFrame(rows, columns=["name", "answer", "corrupted", "source"])
