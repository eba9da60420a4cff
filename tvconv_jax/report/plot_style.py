"""The style of all drawings: the paper's figures, and the charts of reports as inline SVG."""

import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tvconv_jax.utils.files import announce_overwrite, replacing

# Distinguished in gray and at half size: by marker and dashes, and by lightness.
STYLES = (
    {"color": "#000000", "marker": "o", "linestyle": "-"},
    {"color": "#c2571a", "marker": "s", "linestyle": (0, (3.7, 1.6))},
    {"color": "#2b6ca3", "marker": "^", "linestyle": (0, (6.4, 1.6, 1, 1.6))},
    {"color": "#8a8a8a", "marker": "D", "linestyle": (0, (1, 1.65))},
    {"color": "#3d7a3d", "marker": "v", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
    {"color": "#b03060", "marker": "P", "linestyle": (0, (1, 1))},
)
WIDTH = 6.0  # inches
LABEL_SIZE = 14  # points, of titles and of the axes' names
GRID, LEADER = "#dddddd", "#999999"
# In an SVG the page's own colors, so that it is right in light and dark and in print.
CSS_COLORS = {style["color"]: f"var(--s{i})" for i, style in enumerate(STYLES)} | {
    "#000000": "currentColor",
    "#ffffff": "var(--back)",
    GRID: "var(--rule)",
    LEADER: "var(--soft)",
}
RC = {
    "axes.axisbelow": True,
    "errorbar.capsize": 4,
    "axes.labelsize": LABEL_SIZE,
    "axes.titlesize": LABEL_SIZE,
    "figure.labelsize": 12,
    "font.size": 12,
    "grid.color": GRID,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 8,
    "text.parse_math": False,  # a name may hold a dollar sign
}
SVG = "{http://www.w3.org/2000/svg}"


@contextmanager
def drawing(**changes: Any) -> Iterator[None]:
    """Apply the style, with changes to matplotlib's ``rcParams``, to all that is drawn in the block."""
    import matplotlib  # late: training does not need it

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its cache of fonts
    with matplotlib.rc_context(RC | changes):
        yield


def new_figure(height: float = 4.5, *, width: float = WIDTH) -> Any:
    """Return an empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Any, name: str) -> str:
    """Return a figure as an ``svg`` element for a page: the page's colors and font, as wide as its parent.

    Groups with the ``gid`` "series" get it as their class; the same figure gives the same bytes.

    Args:
        figure: The figure, drawn in a block of :func:`drawing` with ``svg.fonttype`` "none".
        name: Its description for a screen reader.
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    for prefix, uri in (("", "http://www.w3.org/2000/svg"), ("xlink", "http://www.w3.org/1999/xlink")):
        ElementTree.register_namespace(prefix, uri)
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if child.tag in (f"{SVG}metadata", f"{SVG}style")]:
            parent.remove(child)
        if parent.tag == f"{SVG}g" and parent.attrib.pop("id", "") == "series":
            parent.set("class", "series")
        if style := parent.get("style"):
            style = re.sub("#[0-9a-f]{6}", lambda color: CSS_COLORS.get(color[0], color[0]), style)
            parent.set("style", re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", style))
    root.attrib = {"viewBox": root.get("viewBox"), "role": "img", "aria-label": name}
    return ElementTree.tostring(root, encoding="unicode")


def spread_apart(wanted: Sequence[float], distance: float) -> list[float]:
    """Return positions in 0 to 1, ascending and at least ``distance`` apart, near those wanted.

    Args:
        wanted: Ascending.
        distance: At most ``1 / (len(wanted) - 1)``.
    """
    positions = np.clip(wanted, 0, 1)
    for i in range(1, len(positions)):  # up, where they are too close
        positions[i] = max(positions[i], positions[i - 1] + distance)
    for i in reversed(range(len(positions))):  # and down again, from the upper end
        limit = 1.0 if i == len(positions) - 1 else positions[i + 1] - distance
        positions[i] = min(positions[i], limit)
    return positions.tolist()


def name_points(axes: Any, points: Sequence[tuple[float, float, str]], bold: Sequence[bool] = ()) -> None:
    """Write the names of points ``(x, y, name)``, ascending by y, in a column on the right, with a thin line to each.

    The limits of the axes must be set before.
    """
    low, high = axes.get_ylim()
    wanted = [(y - low) / (high - low) for _, y, _ in points]
    positions = spread_apart(wanted, min(0.055, 1 / max(1, len(points) - 1)))
    for (x, y, name), position, strong in zip(points, positions, bold or [False] * len(points), strict=True):
        axes.annotate(
            name,
            (x, y),
            xytext=(1.06, position),
            textcoords="axes fraction",
            va="center",
            fontweight="bold" if strong else "normal",
            arrowprops={"arrowstyle": "-", "color": LEADER, "linewidth": 0.8, "shrinkB": 5, "relpos": (0, 0.5)},
        )


def save(figure: Any, out: Path, name: str) -> list[Path]:
    """Write ``out/name.png`` and ``out/name.pdf``; the folder is made if it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{name}.{suffix}" for suffix in ("png", "pdf")]
    for file in files:
        announce_overwrite(file)
        with replacing(file) as part:
            figure.savefig(part, dpi=160)
    return files


def label_axes(axes: Any, x: str = "", y: str = "", title: str = "") -> None:
    """Set the names of the axes and a title, and draw the grid."""
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=LABEL_SIZE)
    axes.grid()


def draw_points(axes: Any, xs: Sequence[float], ys: Sequence[float], errors: Sequence[float], **style: Any) -> None:
    """Draw a line through points with error bars; without bars where all errors are 0."""
    bars = errors if any(errors) else None
    axes.errorbar(xs, ys, bars, elinewidth=1.2, **style)


def legend_above(figure: Any, panels: Sequence[Any]) -> None:
    """Write every name of the panels once, above them."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=3)
