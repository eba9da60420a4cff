"""Pictures to look at as a whole: the sets of a run, or any folder of pictures."""

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
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.utils.errors import UserError

BATCH = 100


class PictureSet(NamedTuple):
    """Pictures of one set.

    Attributes:
        name: Of the set.
        source: Its pictures.
        side: To which they are brought.
    """

    name: str
    source: Source
    side: int

    def batches(self, limit: int) -> Iterator[np.ndarray]:
        """At most so many pictures, spread evenly over the set, as ``uint8 [n, side, side, 3]``."""
        number = min(limit, len(self.source))
        spread = Subset(self.source, np.linspace(0, len(self.source) - 1, number).round().astype(int))
        for batch in eval_batches(spread, batch_size=min(BATCH, number), image_size=self.side):
            yield batch["image"][batch["mask"]]


def open_sets(target: Path, *, side: int = 96) -> list[PictureSet]:
    """The sets of a workdir, training pictures first; or the pictures of a folder, at any depth, as one set.

    Args:
        target: Workdir or folder.
        side: To which the pictures of a folder are brought.

    Raises:
        UserError: If it is neither, or a run of a task without such sets.
    """
    if (target / "config.json").is_file():
        return _sets_of_run(target)
    files = (
        sorted(path for path in walk(target, LeftOut()) if path.suffix.lower() in SUFFIXES) if target.is_dir() else []
    )
    if not files:
        raise UserError(
            f"{target} is no workdir (config.json) and no folder with pictures ({', '.join(SUFFIXES)}); name either."
        )
    return [PictureSet(target.name, LooseFiles(files), side)]


def _sets_of_run(workdir: Path) -> list[PictureSet]:
    config = read_config(workdir)
    task, data = config.task, config.data
    if task == "face":
        faces = load_faces(data)
        sources = {"train": faces.train, **{name: source for name, (source, _) in faces.verification.items()}}
    elif task == "segmentation":
        folder = data.source == "folder"
        found = fundus.load_folder(data.root, cache_dir()) if folder else fundus.load_embedded(data.size, cache_dir())
        sources = {f"domain {domain}": source for domain, source in found.train.items()}
    else:
        raise UserError(f"{workdir} is a run of the task {task!r}; name one of 'face' or 'segmentation', or a folder.")
    return [PictureSet(name, source, data.image_size) for name, source in sources.items()]
