"""The paper's Figure 5: the affinity maps of every layer (top), and their evolution in training (bottom).

The bottom is drawn from the maps that a run saves at every evaluation, ``WORKDIR/maps``. For runs of older versions,
which have none, the top is drawn from a checkpoint.
"""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from matplotlib.figure import Figure

from tvconv_jax.report.html import enlarged, in_grid
from tvconv_jax.report.plot_style import new_figure, save
from tvconv_jax.tasks.finetune import read_checkpoint
from tvconv_jax.training.maps import Maps, affinity_maps, map_files
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json, read_arrays

COLUMNS = 6  # of layers, at the top
STEPS, LAYERS = 6, 5  # at the bottom
PIXELS = 96  # size to which the small maps of a tile are enlarged, so that gaps look alike
FRAME = 2
FLAT = 1e-6  # range of a map that has not moved


def figure5(workdirs: Sequence[Path], out: Path) -> list[Path]:
    """Write ``figure5_top`` and, where the run left its maps, ``figure5_bottom``.

    Raises:
        UserError: If the folder is not a run's, or its model has no affinity maps.
    """
    (workdir,) = workdirs
    files = map_files(workdir)
    if not files:
        checkpoint, maps = _of_checkpoint(workdir)
        print(
            f"note: {workdir} holds no maps/, which runs of this version save at every evaluation. figure5_top is of "
            f"the {checkpoint}; for figure5_bottom, train again."
        )
        return save(draw_layers(maps, checkpoint.partition(" in ")[0]), out, "figure5_top")
    steps = {step: _read(file) for step, file in files.items()}
    last = max(steps)
    shapes = {step: {name: value.shape for name, value in maps.items()} for step, maps in steps.items()}
    if other := [step for step in steps if shapes[step] != shapes[last]]:
        raise UserError(f"{files[other[0]]} has other layers than the last step; remove it, and the others are drawn.")
    written = save(draw_layers(steps[last], f"step {last}"), out, "figure5_top")
    if len(steps) == 1:
        print(f"note: {workdir}/maps holds one step, so there is no figure5_bottom yet.")
        return written
    return written + save(draw_evolution(steps), out, "figure5_bottom")


def _read(file: Path) -> Maps:
    try:
        maps = read_arrays(file)
        if not maps or any(value.ndim != 3 for value in maps.values()):
            raise ValueError("no maps")
        return maps
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{file} is damaged, or not of a run; remove it, and the others are drawn.") from None


def _of_checkpoint(workdir: Path) -> tuple[str, Maps]:
    """Return a description of the checkpoint of a run without ``maps/``, and its maps."""
    try:
        operator = parse_json((workdir / "config.json").read_text())["model"]["operator"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{workdir} holds no maps/ and no run (config.json); name a workdir of tvconv_jax.main."
        ) from None
    checkpoint, arrays = read_checkpoint(workdir, kinds=("last", "best"), named="workdir")
    params = {tuple(name.split("/")[1:]): value for name, value in arrays.items() if name.startswith("params/")}
    maps = affinity_maps(unflatten_dict(params))
    if not maps:
        raise UserError(
            f"{workdir} holds no affinity maps, for the operator {operator!r} has none; name a run of tvconv, "
            f"tvconv_linear or tvconv_lowrank."
        )
    return checkpoint, maps


def draw_layers(maps: Maps, state: str) -> Figure:
    """Draw the top: a tile of all its maps ``[h, w, affinity_channels]`` for every layer, at a state of the run."""
    columns = min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    lines = 1 + max(_title(name, values).count("\n") for name, values in maps.items())
    figure = new_figure(0.8 + rows * (1.0 + 0.2 * lines))
    figure.get_layout_engine().set(h_pad=0.08)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, (name, values) in zip(cells, maps.items(), strict=False):
        axes.imshow(tile(values), cmap="gray", vmin=0, vmax=1)
        axes.set_title(_title(name, values))
    figure.supxlabel(f"affinity maps, {state}\nblack to white: 1st to 99th percentile of each map")
    return figure


def draw_evolution(steps: Mapping[int, Maps]) -> Figure:
    """Draw the bottom: a map of some layers over at least two steps; in a row, equal grays are equal values."""
    shown = chosen(list(steps), STEPS)
    end = steps[shown[-1]]
    layers = chosen_layers(end)
    figure = new_figure(0.9 + 0.85 * len(layers))
    cells = figure.subplots(len(layers), len(shown), squeeze=False)
    for row, name in zip(cells, layers, strict=True):
        channel = most_varied(end[name])
        values = [variation(steps[step][name][..., channel]) for step in shown]
        largest = max(float(np.percentile(np.abs(values), 99)), FLAT)
        for axes, value in zip(row, values, strict=True):
            axes.imshow(value, cmap="gray", vmin=-largest, vmax=largest)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(_title(name, end[name]), fontsize="medium", rotation=0, ha="right", va="center")
    for axes, step in zip(cells[0], shown, strict=True):
        axes.set_title(f"step\n{step}")
    figure.supxlabel(
        "one map a layer: deviation from its mean, over its root mean square\n"
        "mid-gray: no deviation; in a row, equal grays are equal values"
    )
    return figure


def tile(values: np.ndarray) -> np.ndarray:
    """Return maps ``[h, w, a]`` side by side in a square, each in a frame of 0, with gaps of 1.

    Each is scaled so that its 1st percentile is 0 and its 99th is 1, and clipped there; a constant one is 0.5.
    """
    low, high = np.percentile(values, (1, 99), axis=(0, 1))
    flat = high - low < FLAT
    scaled = np.where(flat, 0.5, np.clip((values - low) / np.where(flat, 1, high - low), 0, 1))
    scaled = enlarged(scaled, max(1, PIXELS // max(values.shape[:2])))
    scaled = np.pad(scaled, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)))
    return in_grid(scaled, math.ceil(math.sqrt(values.shape[-1])), max(1, len(scaled) // 10), between=1)


def chosen(items: Sequence[Any], number: int) -> list[Any]:
    """Return at most so many items, spread evenly, the first and the last among them."""
    indices = np.linspace(0, len(items) - 1, min(number, len(items)))
    return [items[int(index)] for index in indices.round()]


def chosen_layers(maps: Maps) -> list[str]:
    """Return the first layer of every grid, at most five; of one grid alone, layers spread evenly."""
    grids = {values.shape[:2]: name for name, values in reversed(maps.items())}
    first = [name for name in maps if name in grids.values()]
    return chosen(first if len(first) > 1 else list(maps), LAYERS)


def variation(values: np.ndarray) -> np.ndarray:
    """Return the deviation of a map ``[h, w]`` from its mean, over its root mean square.

    Weight decay, which shrinks all values alike, does not change it; the generator's first layer norm hardly does.
    """
    size = np.sqrt(np.mean(np.square(values)))
    return (values - values.mean()) / max(float(size), 1e-12)


def most_varied(values: np.ndarray) -> int:
    """Return the index of the map of ``[h, w, a]`` with the largest standard deviation."""
    return int(np.argmax(values.std(axis=(0, 1))))


def _title(name: str, values: np.ndarray) -> str:
    return f"{name.removesuffix('/conv')}/{values.shape[0]}x{values.shape[1]}".replace("/", "\n")
