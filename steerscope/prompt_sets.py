"""`prompts`: the sets of prompts that come with steerscope, by name.

`general` is for any English model: news, dialogue, instructions and more, no two of one template. `on_topic` (weddings)
and `off_topic` (neutral) are story beginnings for the shipped story models.

Where a set or a file may be given, the name of a set comes first, as the name of a shipped model does: a file called
`general` is `./general`.
"""

import os
from pathlib import Path

from steerscope.analysis.brief import brief
from steerscope.analysis.errors import BadPrompt
from steerscope.analysis.gate import gated
from steerscope.analysis.opening import is_standard, named
from steerscope.analysis.reading import held

PREFIX = "prompts_"
FOLDERS = tuple(Path(__file__).parent.joinpath(*room, "data") for room in (("analysis", "question"), ("tinystories",)))


def prompt_sets() -> dict[str, Path]:
    """Names of the shipped sets and their files."""
    files = [path for folder in FOLDERS for path in sorted(folder.glob(f"{PREFIX}*.txt"))]
    return {path.stem.removeprefix(PREFIX): path for path in files}


@gated(error=BadPrompt)
def prompts(name: str) -> list[str]:
    """The texts of a shipped set: `general`, `on_topic` or `off_topic`.

    Raises:
        BadPrompt: there is no such set.
    """
    known = prompt_sets()
    if name not in known:
        raise BadPrompt(
            f"no prompt set {brief(repr(name))}; expected one of {', '.join(known)}; read_prompts reads your own files"
        )
    return [record.text for record in held(known[name])]


@gated(error=BadPrompt)
def prompts_file(source: str | Path) -> str:
    """The file of a shipped set, where `source` is the name of one; else the file that it is the path of, or `-`.

    Raises:
        BadPrompt: neither.
    """
    known = prompt_sets()
    if isinstance(source, str) and source in known:
        return str(known[source])
    if not is_standard(source) and not os.path.lexists(source):
        raise BadPrompt(
            f"no prompts file {named(source)}, and no shipped set of that name ({', '.join(known)}; these names come "
            "before files: ./general is a file); expected a .txt, .jsonl, .csv or .parquet file, - for standard input, "
            "or a set; check the path"
        )
    return str(source)
