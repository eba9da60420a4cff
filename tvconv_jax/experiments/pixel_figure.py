"""The paper's Figure 11: the mean of the pictures of a set at every pixel, and their standard deviation.

A set with one layout has a mean that looks like its pictures; where layouts differ, the mean is gray everywhere.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.experiments.drawing import TEXT, WIDTH, new_figure, save
from tvconv_jax.experiments.image_sets import open_sets


class Pixels(NamedTuple):
    """A set at every pixel.

    Attributes:
        name: Of the set.
        mean: ``[s, s, 3]``, 0 to 255, over pictures.
        std: ``[s, s]``, 0 to 127.5: standard deviation over pictures of each color channel, the root of the mean of
            the three variances.
        pictures: How many.
    """

    name: str
    mean: np.ndarray
    std: np.ndarray
    pictures: int


def measure_pixels(name: str, batches: Iterable[np.ndarray]) -> Pixels:
    """Mean and standard deviation of ``uint8 [n, s, s, 3]`` batches, exact: sums are of whole numbers."""
    count, total, squares = 0, 0, 0
    for batch in batches:
        values = batch.astype(np.int64)
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + np.square(values).sum(axis=0)
    mean = total / count
    variance = np.maximum(squares / count - np.square(mean), 0)
    return Pixels(name, mean, np.sqrt(variance.mean(axis=-1)), count)


def figure11(targets: Sequence[Path], out: Path, *, pictures: int, side: int) -> list[Path]:
    """Writes ``figure11``: a column for every set of every workdir or folder, mean above, standard deviation below.

    Args:
        targets: Workdirs and folders of pictures.
        out: Folder of the figure.
        pictures: At most so many of every set.
        side: To which the pictures of folders are brought.

    Raises:
        UserError: If a target is neither, or a picture cannot be decoded.
    """
    sets = [one for target in targets for one in open_sets(target, side=side)]
    found = [measure_pixels(one.name, one.batches(pictures)) for one in sets]
    brightest = max(one.std.max() for one in found) or 1.0
    width = max(WIDTH, 1.15 * len(found))
    figure = new_figure(2 * min((width - 1.3) / len(found), 2.2) + 0.85, width=width)
    cells = figure.subplots(2, len(found), squeeze=False)
    for (above, below), one in zip(cells.T, found, strict=True):
        above.imshow(one.mean.round().astype(np.uint8))
        shown = below.imshow(one.std, cmap="gray", vmin=0, vmax=brightest)
        above.set_title(one.name, fontsize=TEXT)
    for axes in cells.ravel():
        axes.set(xticks=[], yticks=[])
    cells[0, 0].set_ylabel("mean", fontsize=TEXT)
    cells[1, 0].set_ylabel("std", fontsize=TEXT)
    bar = figure.colorbar(shown, ax=cells[1].tolist(), shrink=0.9)
    bar.ax.tick_params(labelsize=TEXT)
    numbers = sorted({one.pictures for one in found})
    many = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    figure.supxlabel(f"{many} pictures of each set; levels from 0 to 255", fontsize=TEXT)
    return save(figure, out, "figure11")
