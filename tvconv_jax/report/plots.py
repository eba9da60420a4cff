"""Drawings as inline SVG, in the page's own colors, so that they are right in light and dark and in print."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tvconv_jax.report.axes import Axis, linear_axis, tick_text
from tvconv_jax.report.html import Html, joined, tag

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 270, 58, 14, 10, 44
STYLES, MAX_POINTS, MARKED = 6, 200, 12  # kinds of lines; points of a line; as many are marked
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Series(NamedTuple):
    """A line.

    Attributes:
        label: Its name in the legend.
        x: Its points, ascending.
        y: As many.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]


class Point(NamedTuple):
    """A point with a name, and by how much it varies; ``None``: unknown."""

    label: str
    x: float
    y: float
    spread: float | None = None


class Labels(NamedTuple):
    """What stands around a drawing: its title, what its axes are, and more in words below the title."""

    title: str
    x: str
    y: str
    note: str = ""


def line_chart(lines: Sequence[Series], labels: Labels, *, x: Axis, y: Axis | None = None, marked: bool = True) -> Html:
    """Lines over a common axis; the points are marked where they are few, unless told otherwise."""
    lines = [thinned(line) for line in lines]
    y = y or linear_axis([value for line in lines for value in line.y])
    drawn = []
    for number, line in enumerate(lines):
        places = [_place(x, y, *point) for point in zip(line.x, line.y, strict=True)]
        style = f"s{number % STYLES}"
        drawn.append(tag("polyline", class_=f"curve {style}", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places)))
        if marked and len(places) <= MARKED:
            drawn += [tag("circle", class_=f"dot {style}", cx=f"{a:.1f}", cy=f"{b:.1f}", r=3.5) for a, b in places]
    return _figure(drawn, labels, x, y, _legend([line.label for line in lines]) if len(lines) > 1 else None)


def scatter(points: Sequence[Point], labels: Labels) -> Html:
    """Named points, with bars for how much they vary."""
    span = linear_axis([point.x for point in points])
    room = span.high - span.low
    x = Axis(max(0.0, span.low - 0.15 * room), span.high + 0.4 * room)  # names stand on the right
    y = linear_axis([p.y + sign * (p.spread or 0) for p in points for sign in (-1, 1)], margin=0.12)
    places = [_place(x, y, point.x, point.y) for point in points]
    drawn, bars = [], []
    for point, (a, b) in zip(points, places, strict=True):
        if point.spread:
            low, high = (_place(x, y, point.x, point.y + sign * point.spread)[1] for sign in (-1, 1))
            bars.append((a - 1, high, a + 1, low))
            drawn.append(tag("line", class_="bar s0", x1=f"{a:.1f}", x2=f"{a:.1f}", y1=f"{low:.1f}", y2=f"{high:.1f}"))
        drawn.append(tag("circle", class_="dot s0", cx=f"{a:.1f}", cy=f"{b:.1f}", r=4))
    return _figure([*drawn, *_names(points, places, bars)], labels, x, y, None)


def thinned(line: Series) -> Series:
    """Of a long line, means over equal stretches."""
    if len(line.x) <= MAX_POINTS:
        return line
    parts = [np.array_split(np.asarray(values, float), MAX_POINTS) for values in (line.x, line.y)]
    return Series(line.label, *([float(np.mean(part)) for part in values] for values in parts))


def _place(x: Axis, y: Axis, a: float, b: float) -> tuple[float, float]:
    return LEFT + x.place(a) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y.place(b) * (HEIGHT - TOP - BOTTOM)


def _names(points: Sequence[Point], places: Sequence[tuple[float, float]], bars: Sequence[Box]) -> list[Html]:
    """Every name near its point, where it covers as little as can be: above all no other name and no point."""
    taken = [(a - 5, b - 5, a + 5, b + 5) for a, b in places] + list(bars)
    names = []
    for point, (a, b) in zip(points, places, strict=True):
        wide, ways = 7.2 * len(point.label), []
        for lift in (0, -10, 10, -16, 16):
            ways += [(abs(lift), (left, b + lift - 6, left + wide, b + lift + 6)) for left in (a + 8, a - 8 - wide)]
        ways += [(20, (a - wide / 2, b + lift - 6, a + wide / 2, b + lift + 6)) for lift in (-14, 14)]
        inside = [way for way in ways if LEFT <= way[1][0] and way[1][2] <= WIDTH and way[1][3] < HEIGHT - BOTTOM]
        _, box = min(inside or ways, key=lambda way: way[0] + sum(_overlap(way[1], other) for other in taken))
        taken.append(box)
        names.append(tag("text", point.label, x=f"{box[0]:.1f}", y=f"{box[1] + 10:.1f}"))
    return names


def _overlap(a: Box, b: Box) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _figure(drawn: Sequence[Html], labels: Labels, x: Axis, y: Axis, legend: Html | None) -> Html:
    name = f"{labels.title}: {labels.y} over {labels.x}"
    svg = tag("svg", *_frame(labels, x, y), *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=name)
    note = f" {labels.note}" if labels.note else ""
    return tag("figure", tag("figcaption", tag("b", f"{labels.title}."), note), legend, svg)


def _frame(labels: Labels, x: Axis, y: Axis) -> list[Html]:
    """Axes, ticks and what they mean."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        tag("line", class_="axis", x1=LEFT, x2=right, y1=bottom, y2=bottom),
        tag("line", class_="axis", x1=LEFT, x2=LEFT, y1=TOP, y2=bottom),
        tag("text", labels.x, x=(LEFT + right) / 2, y=HEIGHT - 6, text_anchor="middle"),
        tag("text", labels.y, transform=f"translate(13 {(TOP + bottom) / 2}) rotate(-90)", text_anchor="middle"),
    ]
    for value in x.ticks:
        at = f"{_place(x, y, value, y.low)[0]:.1f}"
        parts.append(tag("line", class_="rule", x1=at, x2=at, y1=TOP, y2=bottom))
        parts.append(tag("text", tick_text(value), x=at, y=bottom + 16, text_anchor="middle"))
    for value in y.ticks:
        at = _place(x, y, x.low, value)[1]
        parts.append(tag("line", class_="rule", x1=LEFT, x2=right, y1=f"{at:.1f}", y2=f"{at:.1f}"))
        parts.append(tag("text", tick_text(value), x=LEFT - 6, y=f"{at + 4:.1f}", text_anchor="end"))
    return parts


def _legend(names: Sequence[str]) -> Html:
    items = []
    for number, name in enumerate(names):
        line = tag("line", class_=f"curve s{number % STYLES}", x1=0, x2=36, y1=6, y2=6)
        items.append(tag("li", tag("svg", line, viewBox="0 0 36 12", aria_hidden="true"), name))
    return tag("ul", joined(items), class_="legend")


def corners(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """The corners of a curve that stays at a value until the next point."""
    xs, ys = [x[0]], [y[0]]
    for (_, before), (at, value) in pairwise(zip(x, y, strict=True)):
        xs += [at, at]
        ys += [before, value]
    return xs, ys
