"""The paper's Figure 1e: how features vary within a picture, and how from picture to picture.

With ``f[n, p, c]`` the features of a layer for picture ``n`` at position ``p`` in channel ``c``, variances being means
of squared deviations:

    total(c)        variance of f[n, p, c] over n and p together
    intra-image     mean over n and c of  (variance of f[n, p, c] over p) / total(c)
    cross-image     mean over p and c of  (variance of f[n, p, c] over n) / total(c)

Channels that never vary are left out. Both are shares of 1 and need not add up to 1: where every picture is the same,
they are 1 and 0; where every picture is flat, 0 and 1; where values are independent, 1 and 1. Data with a layout have
a small cross-image variance, above all where the layout is most certain: the map shows its mean over c alone, by
position. The paper gives no formula; this one is ours.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from tvconv_jax.experiments.drawing import AXIS, GRID, TEXT, new_figure, save
from tvconv_jax.experiments.image_sets import PictureSet, open_sets
from tvconv_jax.export.trained import load
from tvconv_jax.tasks.parts import normalize
from tvconv_jax.utils.errors import UserError

PIXELS = "pixels"  # the layer before the first one


class Variance(NamedTuple):
    """How features of a set vary.

    Attributes:
        name: Of the set.
        intra: Within pictures, a share of all variance.
        cross: From picture to picture at the same position, likewise.
        by_position: Cross-image variance, ``[h, w]``; ``cross`` is its mean.
        pictures: How many.
    """

    name: str
    intra: float
    cross: float
    by_position: np.ndarray
    pictures: int


def measure_variance(name: str, batches: Iterable[np.ndarray]) -> Variance:
    """Both variances of features ``[n, h, w, c]``, summed up batch by batch in float64."""
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


def layers_of(model: nn.Module, variables: Any, side: int) -> dict[str, tuple[int, int]]:
    """Grid of what can be looked at: the pixels, and every part of the model that yields maps, in their order."""
    grids = {PIXELS: (side, side)}

    def note(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        output, path = call(*args, **kwargs), context.module.path
        if len(path) == 1 and context.method_name == "__call__" and getattr(output, "ndim", 0) == 4:
            grids[path[0]] = output.shape[1:3]
        return output

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        jax.eval_shape(lambda images: model.apply(variables, images, train=False), images)
    return grids


def choose_layer(grids: Mapping[str, tuple[int, int]], name: str | None) -> str:
    """The layer of that name; without one, the deepest on a quarter of the pictures' side or more.

    Raises:
        UserError: If there is no such layer.
    """
    if name is None:
        return [layer for layer, (height, _) in grids.items() if height >= grids[PIXELS][0] // 4][-1]
    if name not in grids:
        raise UserError(f"--layer={name} is unknown; there are: {', '.join(grids)}.")
    return name


def features_of(model: nn.Module, variables: Any, layer: str) -> Callable[[np.ndarray], np.ndarray]:
    """``uint8 [n, s, s, 3]`` -> features ``[n, h, w, c]`` of a part of the trained model."""

    @jax.jit
    def features(images: jax.Array) -> jax.Array:
        images = normalize(images)
        if layer == PIXELS:
            return images
        wanted = lambda module, method: module.path == (layer,) and method == "__call__"  # noqa: E731
        _, kept = model.apply(variables, images, train=False, capture_intermediates=wanted, mutable=["intermediates"])
        return kept["intermediates"][layer]["__call__"][0]

    return lambda images: np.asarray(features(images))


def figure1e(targets: Sequence[Path], out: Path, *, layer: str | None, chosen: str | None, pictures: int) -> list[Path]:
    """Writes ``figure1e``: both variances of every set as bars, and where cross-image variance lies.

    Args:
        targets: A workdir, whose model gives the features; then any folders of pictures, or workdirs, to compare with.
        out: Folder of the figure.
        layer: Part of the model; ``None``: the deepest on a quarter of the pictures' side.
        chosen: Which set of a workdir; ``None``: the first, training pictures. A folder of pictures has but one.
        pictures: At most so many of every set.

    Raises:
        UserError: If the first is no workdir, there is no such layer or set, or a picture cannot be decoded.
    """
    sets = [_choose(open_sets(target), chosen, target, needed=i == 0) for i, target in enumerate(targets)]
    run = load(targets[0])
    side, variables = run.config.data.image_size, run.variables
    layer = choose_layer(layers_of(run.model, variables, side), layer)
    features = features_of(run.model, variables, layer)
    found = [measure_variance(one.name, map(features, one._replace(side=side).batches(pictures))) for one in sets]
    return save(draw(found, layer), out, "figure1e")


def _choose(sets: Sequence[PictureSet], name: str | None, target: Path, *, needed: bool) -> PictureSet:
    named = {one.name: one for one in sets}
    if name is None or (len(sets) == 1 and not needed):
        return sets[0]
    if name not in named:
        raise UserError(f"--set={name} is no set of {target}; there are: {', '.join(named)}.")
    return named[name]


def draw(found: Sequence[Variance], layer: str) -> Figure:
    """Bars of every set, intra-image light and cross-image dark, and a map of cross-image variance for each."""
    figure = new_figure(3.6, width=max(6.0, 2.4 + 1.8 * len(found)))
    bars, *maps = figure.subplots(1, 1 + len(found), width_ratios=[1 + 0.35 * len(found)] + [1] * len(found))
    places = np.arange(len(found))
    kinds = (("intra-image", -0.2, "white", "//"), ("cross-image", 0.2, "#333333", ""))
    for (label, shift, color, hatch), key in zip(kinds, ("intra", "cross"), strict=True):
        values = [getattr(one, key) for one in found]
        drawn = bars.bar(places + shift, values, 0.4, label=label, color=color, edgecolor="black", hatch=hatch)
        bars.bar_label(drawn, fmt="%.2f", fontsize=TEXT, padding=2)
    bars.set_xticks(places, [one.name for one in found])
    bars.set_ylabel("share of variance", fontsize=AXIS)
    bars.set_title(f"features of {layer}" if layer != PIXELS else layer, fontsize=TEXT)
    bars.tick_params(labelsize=TEXT)
    bars.margins(0.1, 0.15)
    bars.grid(axis="y", color=GRID)
    bars.set_axisbelow(True)
    largest = max(one.by_position.max() for one in found) or 1.0
    for axes, one in zip(maps, found, strict=True):
        shown = axes.imshow(one.by_position, cmap="gray", vmin=0, vmax=largest)
        axes.set_title(f"{one.name}\n{one.pictures} pictures", fontsize=TEXT)
        axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(shown, ax=maps, location="bottom", shrink=0.9)
    bar.set_label("cross-image variance\nby position", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    figure.legend(loc="outside upper left", ncols=2, fontsize=TEXT, frameon=False)
    return figure
