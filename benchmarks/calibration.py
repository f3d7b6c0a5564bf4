"""One table of how often every p-value, interval and claim in words is wrong, on data whose truth is known.

Lines are rates of false claims (at most 1.5 times the stated level), coverages of 95% intervals (at least 92% from 8
groups on), claims that may not be made at all, and some without a bound, which say why. See docs/statistics.md.
Exits with 1 where a bound is broken.

    python -m benchmarks.calibration [--quick] [--markdown] [--only intervals vectors questions]
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import calibration_intervals, calibration_questions, calibration_vectors
from benchmarks.calibration_rows import QUICK, WHOLE, Cell, Row, Size
from benchmarks.common import quiet

SECTIONS: dict[str, Callable[[Size], list[Row]]] = {
    "intervals": calibration_intervals.rows,
    "vectors": calibration_vectors.rows,
    "questions": calibration_questions.rows,
}
HEADS = ("what", "where", "stated", "measured", "tries", "bound", "ok")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer vectors, prompts and tries: about a minute and a half"
    )
    parser.add_argument("--markdown", action="store_true", help="for docs/statistics.md")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS), help="some sections alone")
    options = parser.parse_args(arguments)
    quiet()
    torch.set_num_threads(1)
    return shown(table(QUICK if options.quick else WHOLE, options.only), options.markdown)


def table(size: Size, only: Sequence[str] = tuple(SECTIONS)) -> list[Row]:
    """The lines of some sections."""
    return [row for name in only for row in SECTIONS[name](size)]


def shown(rows: Sequence[Row], markdown: bool = False) -> int:
    """Prints lines, and says what is broken: 1 where anything is."""
    cells = [written(row) for row in rows]
    if markdown:
        lines = [HEADS, ("---",) * len(HEADS), *cells]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    else:
        drawn = Table(*HEADS, title="Calibration", show_lines=False)
        for line in cells:
            drawn.add_row(*line, style="red" if line[-1] == "NO" else None)
        Console(width=None if sys.stdout.isatty() else 200).print(drawn)
    broken = [row for row in rows if not row.ok]
    for row in broken:
        at = ", ".join(
            _percent(c.value) + (f" at {c.at} {row.varies}" if c.at else "") for c in row.cells if row.broken(c)
        )
        print(f"Broken: {row.what} ({row.where}): {at}", file=sys.stderr)
    return int(bool(broken))


def written(row: Row) -> tuple[str, ...]:
    """A line's cells as text."""
    varies = f", by {row.varies}: {', '.join(c.at for c in row.cells)}" if row.varies else ""
    sign = {"rate": "at most ", "coverage": "at least ", "never": "", "shown": ""}[row.kind]
    bound = "–" if row.bound is None else f"{sign}{_percent(row.bound)}"
    ok = f"shown: {row.weakness}" if row.kind == "shown" else "yes" if row.sure else "not broken" if row.ok else "NO"
    tries = sorted({c.tries for c in row.cells})
    return (
        row.what,
        row.where + varies,
        "–" if row.stated is None else _percent(row.stated),
        ", ".join(_marked(row, c) for c in row.cells),
        " to ".join(map(str, dict.fromkeys((tries[0], tries[-1])))),
        bound,
        ok,
    )


def _marked(row: Row, cell: Cell) -> str:
    """In brackets where no bound is meant."""
    text = _percent(cell.value)
    return text if cell.bounded or row.kind == "shown" else f"({text})"


def _percent(value: float) -> str:
    return "missing" if value != value else f"{100 * value:.3g}%"


if __name__ == "__main__":
    sys.exit(main())
