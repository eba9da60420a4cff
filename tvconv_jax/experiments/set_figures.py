"""The paper's Figures 1e and 11: variance of features within and across images, and statistics of every pixel.

Figure 1e: with ``f[n, p, c]`` the features of a layer for image ``n`` at position ``p`` in channel ``c``, variances
being means of squared deviations:

    total(c)        variance of f[n, p, c] over n and p together
    intra-image     mean over n and c of  (variance of f[n, p, c] over p) / total(c)
    cross-image     mean over p and c of  (variance of f[n, p, c] over n) / total(c)

Channels that never vary are left out. Both are shares of 1 and need not add up to 1: with identical images they are 1
and 0; with constant images 0 and 1; with independent values 1 and 1. Data with a layout have a small cross-image
variance, above all where the layout is most certain: the map shows its mean over c alone, by position. The paper gives
no formula; this one is ours.

Figure 11: the mean of the images of a set at every pixel, and their standard deviation. A set with one layout has a
mean that looks like its images; where layouts differ, the mean is gray everywhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from tvconv_jax.data import fundus
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.faces import load_faces
from tvconv_jax.data.listing import SUFFIXES, LeftOut, walk
from tvconv_jax.data.normalization import normalize
from tvconv_jax.data.pipeline import eval_batches
from tvconv_jax.data.sets import LooseFiles
from tvconv_jax.data.source import Source
from tvconv_jax.data.subset import Subset
from tvconv_jax.report.plot_style import WIDTH, new_figure, save
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.tasks.trained import load
from tvconv_jax.utils.errors import UserError

BATCH = 100
PIXELS = "pixels"  # the layer before the first one


class ImageSet(NamedTuple):
    """The images of a set, by its name, and the size to which they are resized."""

    name: str
    source: Source
    image_size: int

    def batches(self, limit: int) -> Iterator[np.ndarray]:
        """Yield at most so many images, spread evenly over the set, as ``uint8 [n, s, s, 3]``."""
        number = min(limit, len(self.source))
        spread = Subset(self.source, np.linspace(0, len(self.source) - 1, number).round().astype(int))
        for batch in eval_batches(spread, batch_size=min(BATCH, number), image_size=self.image_size):
            yield batch["image"][batch["mask"]]


class Variance(NamedTuple):
    """Variance of the features of a set."""

    name: str
    intra: float  # intra-image variance, a share of all variance
    cross: float  # cross-image variance, likewise
    by_position: np.ndarray  # cross-image variance, [h, w]; cross is its mean
    images: int


class Pixels(NamedTuple):
    """Statistics of a set at every pixel, over images."""

    name: str
    mean: np.ndarray  # [s, s, 3], 0 to 255
    std: np.ndarray  # [s, s], 0 to 127.5: the root of the mean of the variances of the three color channels
    images: int


def open_sets(target: Path, *, image_size: int = 96) -> list[ImageSet]:
    """Open the sets of a workdir, training images first; or the images of a folder, at any depth, as one set.

    The images of a folder are resized to ``image_size``.

    Raises:
        UserError: If it is neither, or a run of a task without such sets.
    """
    if not (target / "config.json").is_file():
        paths = walk(target, LeftOut()) if target.is_dir() else ()
        if found := sorted(path for path in paths if path.suffix.lower() in SUFFIXES):
            return [ImageSet(target.name, LooseFiles(found), image_size)]
        raise UserError(
            f"{target} is neither a workdir (config.json) nor a folder with images ({', '.join(SUFFIXES)}); name "
            f"either."
        )
    config = read_config(target)
    task, data = config.task, config.data
    if task == "face":
        faces = load_faces(data)
        sources = {"train": faces.train, **{name: source for name, (source, _) in faces.verification.items()}}
    elif task == "segmentation" and "test_domain" in data:
        folder = data.source == "folder"
        found = fundus.load_folder(data.root, cache_dir()) if folder else fundus.load_embedded(data.size, cache_dir())
        sources = {f"domain {domain}": source for domain, source in found.train.items()}
    else:
        raise UserError(f"{target} is a run of the task {task!r}; name one of faces or of disc and cup, or a folder.")
    return [ImageSet(name, source, data.image_size) for name, source in sources.items()]


def measure_variance(name: str, batches: Iterable[np.ndarray]) -> Variance:
    """Return both variances of features ``[n, h, w, c]``, summed up batch by batch in float64."""
    count, total, squares, within = 0, 0.0, 0.0, 0.0
    for batch in batches:
        features = batch.astype(np.float64)
        count += len(features)
        total = total + features.sum(axis=0)
        squares = squares + np.square(features).sum(axis=0)
        within = within + features.var(axis=(1, 2)).sum(axis=0)
    mean = total / count
    across = np.maximum(squares / count - np.square(mean), 0)  # [h, w, c]
    whole = across.mean(axis=(0, 1)) + mean.var(axis=(0, 1))  # total(c), as a sum of its two parts
    varied = whole > 1e-12 * np.maximum(np.square(mean).mean(axis=(0, 1)), 1e-12)
    if not varied.any():
        return Variance(name, 0.0, 0.0, np.zeros(across.shape[:2]), count)
    by_position = (across[..., varied] / whole[varied]).mean(axis=-1)
    intra = float((within[varied] / count / whole[varied]).mean())
    return Variance(name, intra, float(by_position.mean()), by_position, count)


def measure_pixels(name: str, batches: Iterable[np.ndarray]) -> Pixels:
    """Return mean and standard deviation of ``uint8 [n, s, s, 3]`` batches, exact: sums are of whole numbers."""
    count, total, squares = 0, 0, 0
    for batch in batches:
        values = batch.astype(np.int64)
        count += len(values)
        total = total + values.sum(axis=0)
        squares = squares + np.square(values).sum(axis=0)
    mean = total / count
    variance = np.maximum(squares / count - np.square(mean), 0)
    return Pixels(name, mean, np.sqrt(variance.mean(axis=-1)), count)


def layers_of(model: nn.Module, variables: Any, image_size: int) -> dict[str, tuple[int, int]]:
    """Return the grids of the pixels and of every part of the model that yields maps, in their order."""
    grids = {PIXELS: (image_size, image_size)}

    def note(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        output, path = call(*args, **kwargs), context.module.path
        if len(path) == 1 and context.method_name == "__call__" and getattr(output, "ndim", 0) == 4:
            grids[path[0]] = output.shape[1:3]
        return output

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
        jax.eval_shape(lambda images: model.apply(variables, images, train=False), images)
    return grids


def choose_layer(grids: Mapping[str, tuple[int, int]], name: str | None) -> str:
    """Return the layer of that name; without one, the deepest on at least a quarter of the image size.

    Raises:
        UserError: If there is no such layer.
    """
    if name is None:
        return [layer for layer, (height, _) in grids.items() if height >= grids[PIXELS][0] // 4][-1]
    if name not in grids:
        raise UserError(f"--layer={name} is unknown; there are: {', '.join(grids)}.")
    return name


def features_of(model: nn.Module, variables: Any, layer: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from ``uint8 [n, s, s, 3]`` to the features ``[n, h, w, c]`` of a part of the model."""

    @jax.jit
    def features(images: jax.Array) -> jax.Array:
        images = normalize(images)
        if layer == PIXELS:
            return images
        wanted = lambda module, method: module.path == (layer,) and method == "__call__"  # noqa: E731
        _, kept = model.apply(variables, images, train=False, capture_intermediates=wanted, mutable=["intermediates"])
        return kept["intermediates"][layer]["__call__"][0]

    return lambda images: np.asarray(features(images))


def figure1e(sources: Sequence[Path], out: Path, *, images: int, layer: str | None, set: str | None) -> list[Path]:  # noqa: A002
    """Write ``figure1e``: both variances of every set as bars, and the cross-image variance by position.

    Args:
        sources: A workdir, whose model gives the features; then folders of images or workdirs to compare with.
        out: Folder of the figure.
        images: Largest number of images of a set.
        layer: Part of the model; ``None``: the deepest on at least a quarter of the image size.
        set: Name of the set of a workdir; ``None``: the first, training images. A folder of images has only one.

    Raises:
        UserError: If the first is not a workdir, there is no such layer or set, or an image cannot be decoded.
    """
    sets = [_choose(open_sets(source), set, source, needed=i == 0) for i, source in enumerate(sources)]
    run = load(sources[0])
    size, variables = run.config.data.image_size, run.variables
    layer = choose_layer(layers_of(run.model, variables, size), layer)
    features = features_of(run.model, variables, layer)
    found = [measure_variance(s.name, map(features, s._replace(image_size=size).batches(images))) for s in sets]
    return save(_draw_variances(found, layer), out, "figure1e")


def _choose(sets: Sequence[ImageSet], name: str | None, source: Path, *, needed: bool) -> ImageSet:
    named = {found.name: found for found in sets}
    if name is None or (len(sets) == 1 and not needed):
        return sets[0]
    if name not in named:
        raise UserError(f"--set={name} is not a set of {source}; there are: {', '.join(named)}.")
    return named[name]


def _draw_variances(found: Sequence[Variance], layer: str) -> Figure:
    figure = new_figure(3.6, width=max(6.0, 2.4 + 1.8 * len(found)))
    bars, *maps = figure.subplots(1, 1 + len(found), width_ratios=[1 + 0.35 * len(found)] + [1] * len(found))
    positions = np.arange(len(found))
    kinds = (("intra-image", -0.2, "white", "//"), ("cross-image", 0.2, "#333333", ""))
    for (label, shift, color, hatch), key in zip(kinds, ("intra", "cross"), strict=True):
        values = [getattr(variance, key) for variance in found]
        drawn = bars.bar(positions + shift, values, 0.4, label=label, color=color, edgecolor="black", hatch=hatch)
        bars.bar_label(drawn, fmt="%.2f", padding=2)
    bars.set_xticks(positions, [variance.name for variance in found])
    bars.set(ylabel="share of variance", title=f"features of {layer}" if layer != PIXELS else layer)
    bars.margins(0.1, 0.15)
    bars.grid(axis="y")
    largest = max(variance.by_position.max() for variance in found) or 1.0
    for axes, variance in zip(maps, found, strict=True):
        shown = axes.imshow(variance.by_position, cmap="gray", vmin=0, vmax=largest)
        axes.set(xticks=[], yticks=[], title=f"{variance.name}\n{variance.images} images")
    bar = figure.colorbar(shown, ax=maps, location="bottom", shrink=0.9)
    bar.set_label("cross-image variance\nby position", fontsize="medium")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def figure11(sources: Sequence[Path], out: Path, *, images: int, image_size: int) -> list[Path]:
    """Write ``figure11``: a column for every set of every workdir or folder, mean above, standard deviation below.

    At most ``images`` of a set count; those of folders are resized to ``image_size``.

    Raises:
        UserError: If a source is neither, or an image cannot be decoded.
    """
    sets = [found for source in sources for found in open_sets(source, image_size=image_size)]
    found = [measure_pixels(s.name, s.batches(images)) for s in sets]
    brightest = max(pixels.std.max() for pixels in found) or 1.0
    width = max(WIDTH, 1.15 * len(found))
    figure = new_figure(2 * min((width - 1.3) / len(found), 2.2) + 0.85, width=width)
    cells = figure.subplots(2, len(found), squeeze=False)
    for (above, below), pixels in zip(cells.T, found, strict=True):
        above.imshow(pixels.mean.round().astype(np.uint8))
        above.set_title(pixels.name)
        shown = below.imshow(pixels.std, cmap="gray", vmin=0, vmax=brightest)
    for axes in cells.ravel():
        axes.set(xticks=[], yticks=[])
    for axes, label in zip(cells[:, 0], ("mean", "std"), strict=True):
        axes.set_ylabel(label, fontsize="medium")
    figure.colorbar(shown, ax=cells[1].tolist(), shrink=0.9)
    counts = sorted({pixels.images for pixels in found})
    text = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    figure.supxlabel(f"{text} images of each set; levels from 0 to 255")
    return save(figure, out, "figure11")
