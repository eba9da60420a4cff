"""Size to which the images of a set are resized: the median of their sizes, scaled down to a longest side."""

from collections.abc import Callable, Sequence

import numpy as np

from tvconv_jax.data import decoder
from tvconv_jax.data.decoder import ImageError
from tvconv_jax.data.source import Source

MIN_LENGTH = 16  # pixels of the shorter side at least
STEP = 8  # of a length that is not the median itself
SAMPLE = 500  # images whose headers are read, evenly spread


def sample_sizes(source: Source) -> list[tuple[int, int]]:
    """Read height and width of up to 500 images of a source, evenly spread; images without a header are left out."""
    sizes = []
    for index in np.unique(np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).astype(int)):
        try:
            sizes.append(decoder.size(source[int(index)]["image"]))
        except (ImageError, OSError):  # reported when the images are checked
            continue
    return sizes


def scaled(
    size: tuple[float, float], longest: int, *, multiple: int = 1, rounded: Callable[[float], int] = round
) -> tuple[int, int]:
    """Return height and width of images, scaled down so that the longer side is ``longest`` at most.

    The aspect is kept up to the rounding to a multiple; a side has :data:`MIN_LENGTH` pixels or more.
    """
    factor = min(1.0, longest / max(size))
    height, width = (max(MIN_LENGTH, rounded(length * factor / multiple) * multiple) for length in size)
    return height, width


def choose_size(sizes: Sequence[tuple[int, int]], *, longest: int, step: int = 1) -> tuple[int, int]:
    """Return the median height and width of images, :func:`scaled`.

    Args:
        sizes: Height and width of some images; none: a square of ``longest``.
        longest: Pixels.
        step: Both lengths are a multiple of it; of :data:`STEP` too if they are scaled.
    """
    if not sizes:
        return longest, longest
    height, width = np.median(np.array(sizes), axis=0).tolist()
    kept = max(height, width) <= longest and min(height, width) >= MIN_LENGTH
    return scaled((height, width), longest, multiple=step if kept else max(step, STEP))
