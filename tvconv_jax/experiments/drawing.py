"""Parts that several figures share, in the style of :mod:`tvconv_jax.report.plot_style`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tvconv_jax.report.plot_style import LABEL_SIZE
from tvconv_jax.utils.files import announce_overwrite, replacing


def save(figure: Figure, out: Path, name: str) -> list[Path]:
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


def legend_above(figure: Figure, panels: Sequence[Any]) -> None:
    """Write every name of the panels once, above them."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=3)
