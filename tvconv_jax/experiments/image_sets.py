"""Image sets to measure as a whole: the sets of a run, or any folder of images."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tvconv_jax.data import fundus
from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.faces import load_faces
from tvconv_jax.data.listing import SUFFIXES, LeftOut, walk
from tvconv_jax.data.pipeline import eval_batches
from tvconv_jax.data.sets import LooseFiles
from tvconv_jax.data.source import Source
from tvconv_jax.data.subset import Subset
from tvconv_jax.tasks.workdir import read_config
from tvconv_jax.utils.errors import UserError

BATCH = 100


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


def open_sets(target: Path, *, image_size: int = 96) -> list[ImageSet]:
    """Open the sets of a workdir, training images first; or the images of a folder, at any depth, as one set.

    Args:
        target: Workdir or folder.
        image_size: Size to which the images of a folder are resized.

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
    elif task == "segmentation":
        folder = data.source == "folder"
        found = fundus.load_folder(data.root, cache_dir()) if folder else fundus.load_embedded(data.size, cache_dir())
        sources = {f"domain {domain}": source for domain, source in found.train.items()}
    else:
        raise UserError(f"{target} is a run of the task {task!r}; name one of 'face' or 'segmentation', or a folder.")
    return [ImageSet(name, source, data.image_size) for name, source in sources.items()]
