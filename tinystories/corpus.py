"""Training text: stories from files, and stories that an own grammar tells about ten topics.

Files hold stories separated by a line `<|endoftext|>` and are read as a stream, so that a corpus need
not fit into memory twice. Held-out stories are chosen by a hash of their text: the choice needs no
list, does not depend on the order of the files, and a story that stands twice is held out twice.

`topic_stories` is there because a steering vector such as " wedding" - " " can only be studied on a
model that knows what comes with weddings. Every topic story has a hero, a friend and somebody of the
family; it names its topic in the first sentence, or begins neutrally and turns to it; it comes back
to the topic's words in every sentence, meets some trouble, and ends well or sadly.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from steerscope.analysis.errors import BadCorpus
from steerscope.analysis.gate import Seed, Whole, gated

from .topics import TOPICS, Topic

END = "<|endoftext|>"
PIECE = 1 << 20  # characters that are read at once
LONGEST, WORD = 1_000_000, 2_000  # characters of a story, and of a run without a break: merging is quadratic in it
RUN = re.compile(r"[^\W\d_]+|\d+|(?:[^\w\s]|_)+|\s+")  # what a byte-level BPE takes for a word

GIRLS = "Lily Anna Mia Sue Lucy Sara Emma Ella Zoe Amy Molly Daisy Rose Kate Nora Ruby Jane Eva".split()
BOYS = "Tom Ben Tim Max Sam Jack Leo Bob Billy Fred Jim Luke Dan Peter Finn Noah Joe Will".split()
FAMILY = {"mom": "she", "dad": "he", "grandma": "she", "grandpa": "he"}
PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}

NEUTRAL = (
    "One [day|morning|afternoon], {n} went [out|outside|for a walk|to the park] with {g}.",
    (
        "[Once upon a time, there was|There was once|There once was] a [little|small|kind|happy|young|curious] {c} "
        "named {n}. {S} lived in a [small|yellow|quiet] house with {g}."
    ),
    "{n} and {f} were [good|best] friends. They liked to [play|be] together [every day|after lunch].",
    "{n} was [bored|at home]. {S} [looked out of the window|walked around the house] and did not know what to do.",
    (
        "One day, {n} [could not sleep|got up early|was in the kitchen]. {S} [wanted to see something new|felt "
        "that something would happen]."
    ),
    "A [little|kind|shy] {c} named {n} walked [down the road|over the hill|through the town] with {p} friend {f}.",
)
FEELINGS = (
    "{n} was so [happy|excited|surprised] that {s} [jumped up and down|laughed|clapped {p} hands].",
    '"[Wow|Oh|Look]!" said {n}. "[I have never seen this before.|This is so nice!|Can I help?]"',
    '{f} [smiled|nodded] and [took {p} hand.|said, "Come with me!"]',
    '{G} [smiled|looked at {o}] and said, "[Be careful|Have fun|Stay near me], {n}."',
    "{S} [did not know|wondered] what would happen next.",
    "They [laughed|talked] [for a long time|and had a lot of fun].",
)
HAPPY = (
    "{n} and {f} were [happy|proud|very glad].",
    '"Thank you, {n}," said {f}. "You are a good friend."',
    "{n} went home and told {g} all about it.",
    "{n} learned that it is good to [help|share|be kind|try again].",
)
SAD = (
    "{n} went home [slowly|with {f}] and {g} gave {o} a hug.",
    '"[It is okay to be sad|Do not cry|Next time it will be better]," said {g}.',
    "{n} was sad for a long time.",
    "{n} learned that [not all things can be fixed|it is better to be careful|sometimes things go wrong].",
)
LOOKING = " {S} [saw|looked at|wanted to see|asked about] the"
CHOICE = re.compile(r"\[([^\[\]]*)\]")


@gated(error=BadCorpus)
def read_stories(path: str | Path) -> Iterator[str]:
    """The stories of one text file, in order, stripped; empty ones are left out.

    Raises:
        BadCorpus: no such file, not UTF-8, no story in it, or one of more than a million characters or with a word of
            thousands.
    """
    path, found = Path(path), False
    try:
        if not path.is_file():
            raise BadCorpus(f"no corpus file {str(path)!r}; expected a text file, {END} between its stories; check it")
        with path.open(encoding="utf-8") as file:
            for story in _split(file):
                found = True
                if len(story) > WORD and (len(story) > LONGEST or max(map(len, RUN.findall(story))) > WORD):
                    raise BadCorpus(
                        f"{str(path)!r} holds a story of more than {LONGEST:,} characters, or a word of more than "
                        f"{WORD:,}; expected stories of words, with {END} between them; put it there"
                    )
                yield story
    except UnicodeDecodeError as error:
        raise BadCorpus(
            f"{str(path)!r} is not UTF-8 (near byte {error.start} of a block: {error.reason}); expected stories as "
            "UTF-8 text; save it so"
        ) from error
    except OSError as error:
        raise BadCorpus(
            f"{str(path)!r} cannot be read ({error.strerror or error}); expected a text file; check it"
        ) from error
    if not found:
        raise BadCorpus(f"{str(path)!r} holds no story; expected text, with {END} between stories; give another file")


def _split(file: TextIO) -> Iterator[str]:
    """Stories; the beginning of one that is too long, and no more of it."""
    rest = ""
    for piece in iter(partial(file.read, PIECE), ""):
        *ended, rest = (rest + piece).split(END)
        yield from filter(None, map(str.strip, ended))
        if len(rest) > LONGEST + len(END):
            yield rest
            return
    yield from filter(None, [rest.strip()])


@gated
def is_held_out(story: str, one_in: Whole) -> bool:
    """Whether a story belongs to the held-out set: about one story in `one_in`, by its SHA-256."""
    return one_in > 0 and int.from_bytes(hashlib.sha256(story.encode()).digest()[:8]) % one_in == 0


@gated
def topic_stories(seed: Seed, topic: str | None = None) -> Iterator[str]:
    """An endless stream of stories, all of them about `topic` where one is given."""
    names = [entry.name for entry in TOPICS]
    if topic is not None and topic not in names:
        raise BadCorpus(f"no topic {topic!r}; expected one that the grammar knows: {', '.join(names)}; choose one")
    chosen = [entry for entry in TOPICS if topic in (None, entry.name)]
    dice = random.Random(seed)
    while True:
        yield _story(dice.choice(chosen), dice)


@gated
def openings(seed: Seed, count: Whole) -> list[str]:
    """Beginnings of stories that name no topic yet, up to a word that may be one's: different ones."""
    dice, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        found[_fill(dice.choice(NEUTRAL) + LOOKING, _people(dice), dice)] = None
    return list(found)


def _story(topic: Topic, dice: random.Random) -> str:
    people = _people(dice)
    early = dice.random() < 0.5
    begin = [dice.choice(topic.early)] if early else [dice.choice(NEUTRAL), dice.choice(topic.turn)]
    scenes = dice.sample(topic.middle, dice.randint(3, 6))
    scenes.insert(dice.randint(1, len(scenes)), dice.choice(FEELINGS))
    trouble, mended, lost = dice.choice(topic.trouble)
    happy = dice.random() < 0.7
    end = [trouble, mended if happy else lost, dice.choice(HAPPY if happy else SAD)]
    if happy:
        end.insert(dice.randint(2, 3), dice.choice(topic.close))
    if not early and dice.random() < 0.5:
        begin.insert(1, dice.choice(FEELINGS))
    paragraphs = [" ".join(part) for part in (begin, scenes, end)]
    return _fill("\n".join(paragraphs), people, dice)


def _people(dice: random.Random) -> dict[str, str]:
    hero, friend = dice.choice(("he", "she")), dice.choice(("he", "she"))
    name, other = (dice.choice(GIRLS if who == "she" else BOYS) for who in (hero, friend))
    while other == name:
        other = dice.choice(GIRLS if friend == "she" else BOYS)
    kin = dice.choice(list(FAMILY))
    people = {"n": name, "f": other, "g": f"{PRONOUNS[hero][2]} {kin}", "c": "girl" if hero == "she" else "boy"}
    people["G"] = people["g"].capitalize()
    for prefix, who in (("", hero), ("f", friend), ("g", FAMILY[kin])):
        for key, word in zip("sop", PRONOUNS[who], strict=True):
            people[prefix + key] = word
            people[(prefix + key).capitalize()] = word.capitalize()
    return people


def _fill(pattern: str, people: dict[str, str], dice: random.Random) -> str:
    # innermost choices first, so that a choice may hold another one
    while CHOICE.search(pattern):
        pattern = CHOICE.sub(lambda match: dice.choice(match[1].split("|")), pattern)
    return pattern.format_map(people)
