"""Stories from files, the held-out choice, and the grammar of the topic stories."""

import itertools
import os
import random
import re
import time
from pathlib import Path

import pytest

from steerscope.analysis.errors import BadCorpus
from steerscope.tinystories import corpus
from steerscope.tinystories.corpus import BOYS, END, GIRLS, _fill, is_held_out, read_stories, topic_stories
from steerscope.tinystories.topics import TOPICS

HOLES = re.compile(r"[\[\]{}|]|//")


def stories(count: int, seed: int = 0, topic: str | None = None) -> list[str]:
    return list(itertools.islice(topic_stories(seed, topic), count))


def test_stories_are_split_wherever_the_separator_stands(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(f"One.\nTwo.\n{END}\n\nThree. {END} Four.{END}{END}\n  \n{END}\nFive.\n")
    assert list(read_stories(path)) == ["One.\nTwo.", "Three.", "Four.", "Five."]


def test_a_missing_corpus_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCorpus, match=r"no corpus file .*nowhere\.txt"):
        list(read_stories(tmp_path / "nowhere.txt"))


def test_a_corpus_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Eine schöne Hochzeit".encode("latin-1"))
    with pytest.raises(BadCorpus, match=r"latin\.txt' is not UTF-8"):
        list(read_stories(tmp_path / "latin.txt"))


@pytest.mark.parametrize("text", ["", " \n\n", f"\n{END}\n{END}\n"])
def test_a_corpus_without_a_story_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.txt").write_text(text)
    with pytest.raises(BadCorpus, match="holds no story"):
        list(read_stories(tmp_path / "empty.txt"))


@pytest.mark.parametrize(
    "text", ["a" * 3_000, "1" * 3_000, "Lily went. " * 100_000, " " * 3_000_000 + "Lily", "-_" * 9_000]
)
def test_a_corpus_that_is_no_text_of_stories_is_refused_at_once(tmp_path: Path, text: str) -> None:
    """The byte-level BPE takes minutes to merge one word of 300,000 letters."""
    (tmp_path / "odd.txt").write_text(f"Tom saw a ship. {END}{text}{END}Lily, too.")
    start = time.perf_counter()
    with pytest.raises(BadCorpus, match="expected stories of words"):
        list(read_stories(tmp_path / "odd.txt"))
    assert time.perf_counter() - start < 5


def test_stories_are_the_same_however_the_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stories.txt").write_text(f"{END}One.{END}\n Two. \n{END}{END}Three.<|end{END}Four", newline="\r\n")
    for piece in (1, 2, 3, 7, 1 << 20):
        monkeypatch.setattr(corpus, "PIECE", piece)
        assert list(read_stories(tmp_path / "stories.txt")) == ["One.", "Two.", "Three.<|end", "Four"]


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "surrogate.txt").write_bytes(b"Lily \xed\xa0\x80 went.")
    for name in ("pipe", "zero", "surrogate.txt", ".", "x" * 300, "a/b/c"):
        with pytest.raises(BadCorpus, match="expected"):
            list(read_stories(tmp_path / name))
    for path in ("", "a\0b", 5, None):
        with pytest.raises(BadCorpus, match="expected"):
            read_stories(path)  # type: ignore[arg-type]


def test_about_one_story_in_n_is_held_out_and_always_the_same_ones() -> None:
    told = stories(2000)
    held_out = [story for story in told if is_held_out(story, 20)]
    assert 60 < len(held_out) < 140
    assert [story for story in reversed(told) if is_held_out(story, 20)] == held_out[::-1]


def test_the_held_out_choice_never_changes_between_versions() -> None:
    """The shipped models' figures are on the stories that this choice held out."""
    assert [number for number in range(40) if is_held_out(f"story {number}", 5)] == [2, 5, 15, 23, 25, 35]


def test_the_same_seed_tells_the_same_stories_and_another_seed_tells_others() -> None:
    assert stories(50, seed=3) == stories(50, seed=3)
    assert not set(stories(50, seed=3)) & set(stories(50, seed=4))


def test_there_are_at_least_eight_topics_and_weddings_are_among_them() -> None:
    names = [topic.name for topic in TOPICS]
    assert len(set(names)) == len(names) >= 8
    assert "wedding" in names


def test_an_unknown_topic_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadCorpus, match="no topic 'taxes'; expected one that the grammar knows: wedding, dragon"):
        next(topic_stories(0, "taxes"))


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
def test_words_of_a_topic_return_in_its_stories_and_not_in_others(topic: str) -> None:
    words = next(entry.words for entry in TOPICS if entry.name == topic)
    own = stories(100, topic=topic)
    others = [story for entry in TOPICS if entry.name != topic for story in stories(20, topic=entry.name)]

    def mean(told: list[str]) -> float:
        counts = [len(re.findall(rf"\b({'|'.join(words)})\b", story)) for story in told]
        return sum(counts) / len(counts)

    assert mean(own) > 6 * mean(others)
    assert min(len(re.findall(rf"\b({'|'.join(words)})\b", story)) for story in own) >= 2


def test_every_word_of_every_topic_is_used() -> None:
    for topic in TOPICS:
        told = " ".join(stories(300, topic=topic.name))
        assert [word for word in topic.words if not re.search(rf"\b{word}\b", told)] == []


def test_no_hole_of_a_pattern_is_left_in_a_story() -> None:
    for story in stories(2000, seed=1):
        assert not HOLES.search(story), story


def test_a_choice_may_hold_another_one() -> None:
    dice = random.Random(0)
    told = {_fill("a [big [red|blue]|small] {c}", {"c": "ship"}, dice) for _ in range(50)}
    assert told == {"a big red ship", "a big blue ship", "a small ship"}


def test_sentences_begin_with_capitals_and_end_with_a_mark() -> None:
    for story in stories(2000, seed=2):
        for paragraph in story.split("\n"):
            assert paragraph[0].isupper() or paragraph[0] == '"', paragraph
            assert paragraph[-1] in '.!?"', paragraph
            assert not re.search(r"[.!?] [a-z]", paragraph), paragraph


def test_the_hero_is_he_or_she_and_never_both() -> None:
    """In stories without a friend every pronoun is the hero's or the family's."""
    checked = 0
    for story in stories(3000, seed=5, topic="dragon"):
        people = {name for name in GIRLS + BOYS if re.search(rf"\b{name}\b", story)}
        if len(people) != 1 or re.search(r"mom|dad|grand|bride|knight", story):
            continue
        checked += 1
        wrong = r"\b([Hh]e|[Hh]im|[Hh]is)\b" if people <= set(GIRLS) else r"\b([Ss]he|[Hh]er)\b"
        # the knight, the king and their swords are men's in every story
        assert not re.search(wrong, re.sub(r"(king|captain)[^.]*\.", "", story)), story
    assert checked > 50


def test_stories_vary() -> None:
    told = stories(500, seed=6)
    assert len(set(told)) == len(told)
    first = {story.split(".")[0] for story in told}
    assert len(first) > 250


def test_endings_are_happy_and_sad() -> None:
    told = stories(500, seed=7, topic="snow")
    sad = sum("The snowman was gone" in story or "was sad" in story for story in told)
    assert 30 < sad < 300
