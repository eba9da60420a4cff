"""Size to which the images of a set are resized, chosen from the headers of some of them."""

from collections.abc import Sequence

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


def median_size(source: Source) -> tuple[int, int] | None:
    """Return the median height and width of :func:`sample_sizes`; ``None`` if no image can be read."""
    if not (sizes := sample_sizes(source)):
        return None
    height, width = np.median(np.array(sizes), axis=0)
    return int(height), int(width)


def choose_size(sizes: Sequence[tuple[int, int]], *, longest: int, step: int = 1) -> tuple[int, int]:
    """Return the median height and width of images, scaled down so that the longer side is ``longest`` at most.

    Args:
        sizes: Height and width of some images; none: a square of ``longest``.
        longest: Pixels.
        step: Both lengths are a multiple of it; of :data:`STEP` too if they are scaled.
    """
    if not sizes:
        return longest, longest
    height, width = (float(np.median(lengths)) for lengths in zip(*sizes, strict=True))
    factor = min(1.0, longest / max(height, width))
    step = step if factor == 1 and min(height, width) >= MIN_LENGTH else max(step, STEP)
    height, width = (max(MIN_LENGTH, round(length * factor / step) * step) for length in (height, width))
    return height, width
