"""The paper's Figure 10: accuracy when the training pictures are rotated, sheared, scaled or shifted, ever more.

A panel for every transformation, a line for every operator, as in a sweep of ``figure10``.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from tvconv_jax.experiments.drawing import AXIS, GRID, STYLES, TEXT, draw_points, legend_above, new_figure, save
from tvconv_jax.experiments.sweep_results import Outcome, over_seeds, read_sweeps
from tvconv_jax.utils.errors import UserError

# As in tvconv_jax.data.augment.
UNITS = {"rotation": ", degrees", "shear": ", degrees", "scale": ", share", "translation": ", share"}
Curves = dict[str, dict[str, list[tuple[float, Outcome]]]]


def curves(outcomes: Sequence[Outcome]) -> Curves:
    """By transformation, then operator: strength and outcome, in the order of strength.

    A label is an operator and a strength, ``tvconv 10``; the group is the transformation. With strength 0 all of them
    are one, so that setting begins every curve.

    Raises:
        UserError: If a label ends in no number.
    """
    found: Curves = defaultdict(lambda: defaultdict(list))
    begin = defaultdict(list)
    for one in outcomes:
        operator, _, text = one.label.rpartition(" ")
        try:
            strength = float(text)
        except ValueError:
            raise UserError(
                f"setting {one.group} {one.label} ends in no strength, as 'tvconv 10' does; give a sweep of figure10."
            ) from None
        (found[one.group] if strength else begin)[operator].append((strength, one))
    return {
        group: {
            operator: sorted(begin[operator] + points, key=lambda point: point[0]) for operator, points in lines.items()
        }
        for group, lines in found.items()
    }


def figure10(folders: Sequence[Path], out: Path) -> list[Path]:
    """Writes ``figure10``.

    Raises:
        UserError: If a folder is no sweep's, or no sweep of such settings.
    """
    outcomes = read_sweeps(folders)
    found = curves(outcomes)
    if not found:
        raise UserError(f"{folders[0]} holds no transformed training yet, only strength 0; let more of its runs end.")
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = new_figure(0.9 + 2.4 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    styles = dict(
        zip(dict.fromkeys(operator for lines in found.values() for operator in lines), cycle(STYLES), strict=False)
    )
    for axes, (group, lines) in zip(panels, found.items(), strict=False):
        for operator, points in lines.items():
            xs, ys, errors = zip(*((x, one.mean, one.std) for x, one in points), strict=True)
            draw_points(axes, xs, ys, errors, label=operator, **styles[operator])
        strengths = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xticks(strengths, [f"{x:g}" for x in strengths])
        axes.set_title(f"{group}{UNITS.get(group, '')}", fontsize=AXIS)
        axes.tick_params(labelsize=TEXT)
        axes.grid(color=GRID)
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    figure.supylabel(f"accuracy, % ({over_seeds(outcomes)})", fontsize=AXIS)
    figure.supxlabel("strength", fontsize=AXIS)
    legend_above(figure, panels[: len(found)])
    return save(figure, out, "figure10")
