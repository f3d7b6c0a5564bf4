"""Where names of points go so that they neither cover each other nor other points."""

import math
from collections.abc import Sequence

Point = tuple[float, float]
Line = tuple[Point, Point]
Box = tuple[float, float, float, float]
WIDE, HIGH = 7.2, 15.0  # of a letter and of a line at 11 pixels
REACH, STEPS = (17.0, 26.0, 38.0, 54.0, 74.0), 16


def offsets(
    names: Sequence[str], at: Sequence[Point], others: Sequence[Point], bars: Sequence[Line], size: Point
) -> list[Point]:
    """From each named point to the middle of its name, in pixels, y downwards.

    Greedy, in the order given: of places around the point, near ones first, the one that covers least.

    Args:
        at: the named points, in pixels. others: all points that should stay visible. bars: lines likewise.
        size: of the drawing, in pixels.
    """
    taken: list[Box] = []
    lines: list[Line] = []
    found = []
    for name, point in zip(names, at, strict=True):
        half = (WIDE * len(name) / 2 + 2, HIGH / 2)
        best = min(_around(half[0]), key=lambda o: _cost(point, o, half, taken, lines, others, bars, size))
        middle = (point[0] + best[0], point[1] + best[1])
        taken.append(_box(middle, half))
        lines.append((point, middle))
        found.append(best)
    return found


def _around(half: float) -> list[Point]:
    """Offsets to try, near ones first; ellipses, since names are wider than high."""
    turns = [2 * math.pi * i / STEPS - math.pi / 4 for i in range(STEPS)]
    return [((reach + half - 8) * math.cos(turn), reach * math.sin(turn)) for reach in REACH for turn in turns]


def _box(middle: Point, half: Point) -> Box:
    return middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]


def _cost(
    point: Point,
    offset: Point,
    half: Point,
    taken: Sequence[Box],
    lines: Sequence[Line],
    others: Sequence[Point],
    bars: Sequence[Line],
    size: Point,
) -> float:
    middle = (point[0] + offset[0], point[1] + offset[1])
    left, top, right, bottom = box = _box(middle, half)
    if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
        return 1e6 + math.hypot(*offset)
    cost = 0.02 * math.hypot(*offset)
    cost += sum(50.0 for a, b, c, d in taken if left < c + 2 and a < right + 2 and top < d + 1 and b < bottom + 1)
    cost += sum(3.0 for x, y in others if left - 3 < x < right + 3 and top - 3 < y < bottom + 3)
    cost += sum(8.0 for a, b in lines if _cross(point, middle, a, b) or _through(box, a, b))
    cost += sum(4.0 for a, b in bars if _through(box, a, b))
    return cost + sum(8.0 for other in taken if _through(other, point, middle))


def _through(box: Box, start: Point, end: Point) -> bool:
    """Whether a line passes through a box: the stretch of it that is inside both pairs of sides."""
    enter, leave = 0.0, 1.0
    for i in (0, 1):
        way = end[i] - start[i]
        if not way:
            if not box[i] < start[i] < box[i + 2]:
                return False
            continue
        first, last = sorted([(box[i] - start[i]) / way, (box[i + 2] - start[i]) / way])
        enter, leave = max(enter, first), min(leave, last)
    return enter < leave


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    def side(p: Point, q: Point, r: Point) -> bool:
        return (q[0] - p[0]) * (r[1] - p[1]) > (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) != side(a, b, d) and side(c, d, a) != side(c, d, b)
