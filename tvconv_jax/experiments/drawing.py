"""How every figure looks: series told apart in gray, letters that are read at half size, PNG and PDF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tvconv_jax.utils.files import replacing
from tvconv_jax.utils.outputs import announce_overwrite

# Told apart in gray and at half size: by marker and dashes, and by lightness.
STYLES = (
    {"color": "#000000", "marker": "o", "linestyle": "-"},
    {"color": "#c2571a", "marker": "s", "linestyle": "--"},
    {"color": "#2b6ca3", "marker": "^", "linestyle": "-."},
    {"color": "#8a8a8a", "marker": "D", "linestyle": ":"},
    {"color": "#3d7a3d", "marker": "v", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
    {"color": "#b03060", "marker": "P", "linestyle": (0, (1, 1))},
)
WIDTH = 6.0  # inches
TEXT, AXIS = 12, 14  # points: letters in a figure, and of its axes' names
GRID = "#dddddd"


def new_figure(height: float = 4.5, *, width: float = WIDTH) -> Figure:
    """An empty figure, sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Writes ``out/name.png`` and ``out/name.pdf``; makes the folder if it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{name}.{suffix}" for suffix in ("png", "pdf")]
    for file in files:
        announce_overwrite(file)
        with replacing(file) as part:
            figure.savefig(part, dpi=160)
    return files


def draw_points(axes: Any, xs: Sequence[float], ys: Sequence[float], errors: Sequence[float], **style: Any) -> None:
    """A line through points with error bars; without bars where all errors are 0."""
    bars = errors if any(errors) else None
    axes.errorbar(xs, ys, bars, linewidth=2, markersize=8, capsize=4, elinewidth=1.2, **style)


def legend_above(figure: Figure, panels: Sequence[Any]) -> None:
    """Every name of the panels once, above them."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=3, fontsize=TEXT, frameon=False)
