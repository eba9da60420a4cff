"""The paper's Figure 5: the affinity maps of every layer (top), and how they came about (bottom).

The bottom needs the maps that a run leaves while it trains, ``WORKDIR/maps``; the top also does with a checkpoint, for
runs of older versions left none.
"""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from matplotlib.figure import Figure

from tvconv_jax.experiments.drawing import TEXT, new_figure, save
from tvconv_jax.tasks.finetune import read_checkpoint
from tvconv_jax.training.maps import Maps, affinity_maps, map_files, read_maps
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.plain_files import parse_json

COLUMNS = 6  # of layers, at the top
STEPS, LAYERS = 6, 5  # at the bottom
PIXELS = 96  # to which the small maps of a tile are enlarged, so that gaps look alike
FRAME = 2
FLAT = 1e-6  # range of a map that has not moved


def figure5(workdir: Path, out: Path) -> list[Path]:
    """Writes ``figure5_top`` and, where the run left its maps, ``figure5_bottom``.

    Raises:
        UserError: If the folder is no run's, or its model has no affinity maps.
    """
    files = map_files(workdir)
    if not files:
        what, maps = _of_checkpoint(workdir)
        print(f"note: {workdir} holds no maps/, which a run of this version writes at every evaluation: figure5_top is")
        print(f"of the {what}, and there is no figure5_bottom; train anew to get it.")
        return save(draw_layers(maps, what.partition(" in ")[0]), out, "figure5_top")
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
        maps = read_maps(file)
        if not maps or any(value.ndim != 3 for value in maps.values()):
            raise ValueError("no maps")
        return maps
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{file} is damaged, or not of a run; remove it, and the others are drawn.") from None


def _of_checkpoint(workdir: Path) -> tuple[str, Maps]:
    """Which checkpoint of a run without ``maps/`` is read, and its maps."""
    try:
        operator = parse_json((workdir / "config.json").read_text())["model"]["operator"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{workdir} holds no maps/ and no run (config.json); name a workdir of tvconv_jax.main."
        ) from None
    what, arrays = read_checkpoint(workdir, kinds=("last", "best"), named="workdir")
    params = {tuple(name.split("/")[1:]): value for name, value in arrays.items() if name.startswith("params/")}
    maps = affinity_maps(unflatten_dict(params))
    if not maps:
        raise UserError(
            f"{workdir} holds no affinity maps, for the operator {operator!r} has none; name a run of tvconv, "
            f"tvconv_linear or tvconv_lowrank."
        )
    return what, maps


def draw_layers(maps: Maps, when: str) -> Figure:
    """The top: a tile of all its maps for every layer, each map in its own grays.

    Args:
        maps: ``[h, w, affinity_channels]`` by layer.
        when: In what state of the run.
    """
    columns = min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    lines = 1 + max(_title(name).count("\n") + 1 for name in maps)
    figure = new_figure(0.8 + rows * (1.0 + 0.2 * lines))
    figure.get_layout_engine().set(h_pad=0.08)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, (name, values) in zip(cells, maps.items(), strict=False):
        axes.imshow(tile(values), cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{_title(name)}\n{values.shape[0]}x{values.shape[1]}", fontsize=TEXT)
    figure.supxlabel(f"affinity maps, {when}\nblack to white: 1st to 99th percentile of each map", fontsize=TEXT)
    return figure


def draw_evolution(steps: Mapping[int, Maps]) -> Figure:
    """The bottom: one map of some layers over the steps; in a row, equal grays are equal values.

    Args:
        steps: Maps by step, ascending, at least two.
    """
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
        grid = f"{values[0].shape[0]}x{values[0].shape[1]}"
        row[0].set_ylabel(f"{_title(name)}\n{grid}", fontsize=TEXT, rotation=0, ha="right", va="center")
    for axes, step in zip(cells[0], shown, strict=True):
        axes.set_title(f"step\n{step}", fontsize=TEXT)
    figure.supxlabel(
        "one map a layer: deviation from its mean, over its root mean square\n"
        "mid-gray: no deviation; in a row, equal grays are equal values",
        fontsize=TEXT,
    )
    return figure


def tile(values: np.ndarray) -> np.ndarray:
    """Maps ``[h, w, a]`` side by side in a square, each in a frame of 0, 1 between them.

    Each is scaled so that its 1st percentile is 0 and its 99th is 1, and cut there; one that is the same everywhere
    is 0.5.
    """
    low, high = np.percentile(values, (1, 99), axis=(0, 1))
    flat = high - low < FLAT
    scaled = np.where(flat, 0.5, np.clip((values - low) / np.where(flat, 1, high - low), 0, 1))
    factor = max(1, PIXELS // max(values.shape[:2]))
    scaled = scaled.repeat(factor, axis=0).repeat(factor, axis=1)
    scaled = np.pad(scaled, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)))
    height, width, maps = scaled.shape
    columns = math.ceil(math.sqrt(maps))
    gap = max(1, height // 10)
    rows = -(-maps // columns)
    whole = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap))
    for i in range(maps):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        whole[y : y + height, x : x + width] = scaled[..., i]
    return whole


def chosen(items: Sequence[Any], number: int) -> list[Any]:
    """At most so many, spread evenly, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(number, len(items)))
    return [items[int(place)] for place in places.round()]


def chosen_layers(maps: Maps) -> list[str]:
    """The first layer of every grid, at most five; of one grid alone, layers spread evenly."""
    grids = {values.shape[:2]: name for name, values in reversed(maps.items())}
    first = [name for name in maps if name in grids.values()]
    return chosen(first if len(first) > 1 else list(maps), LAYERS)


def variation(values: np.ndarray) -> np.ndarray:
    """Deviation from the mean over the root mean square, for a map ``[h, w]``: weight decay, which shrinks all alike,
    leaves it as it is, and so does the generator's first layer norm, nearly."""
    size = np.sqrt(np.mean(np.square(values)))
    return (values - values.mean()) / max(float(size), 1e-12)


def most_varied(values: np.ndarray) -> int:
    """Which of the maps ``[h, w, a]`` has the largest standard deviation."""
    return int(np.argmax(values.std(axis=(0, 1))))


def _title(name: str) -> str:
    return name.removesuffix("/conv").replace("/", "\n")
