"""Affinity maps of a run as they change: ``WORKDIR/maps/step_00000000.npz``, a small file at every evaluation.

:func:`.read_arrays` reads a file: maps by the layer's name, ``block_1/conv`` to float32 ``[h, w, affinity_channels]``.
Models without affinity maps leave no file. Those of MobileNetV2 at 96x96 are 270 KB.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from tvconv_jax.training.distributed import is_first, to_host
from tvconv_jax.utils.files import write_bytes
from tvconv_jax.utils.storage import writing

FOLDER = "maps"
_FILE = re.compile(r"step_(\d{8,})\.npz")

Maps = dict[str, np.ndarray]


def affinity_maps(params: Any) -> Maps:
    """Return every layer's affinity maps in the parameters of a run or model, ``block_2`` before ``block_10``."""
    found = {path[:-1]: value for path, value in flatten_dict(params).items() if path[-1] == "affinity"}
    return {"/".join(path).removeprefix("model/"): found[path] for path in sorted(found, key=_by_number)}


def _by_number(path: tuple[str, ...]) -> list[str]:
    return [re.sub(r"\d+", lambda number: number[0].zfill(4), part) for part in path]


class MapsLog:
    """Writer of the affinity maps of a run, in the first process.

    Files of steps after ``step``, the first of this command, are removed, for these steps will be taken again.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        self._workdir, self._first = workdir, is_first()
        if self._first:
            for at, file in map_files(workdir).items():
                if at > step:
                    file.unlink()

    def write(self, step: int, params: Any) -> None:
        """Write the maps of one step, whole or not at all.

        Raises:
            TrainingError: If the disk is full.
        """
        maps = {name: to_host(value) for name, value in affinity_maps(params).items()}
        if not maps or not self._first:
            return
        content = io.BytesIO()
        np.savez(content, **maps)
        with writing(self._workdir, "affinity maps; checkpoints that are written are whole"):
            (self._workdir / FOLDER).mkdir(exist_ok=True)
            write_bytes(self._workdir / FOLDER / f"step_{step:08d}.npz", content.getvalue())


def map_files(workdir: Path) -> dict[int, Path]:
    """Return the files of a workdir by step, in order."""
    files = {int(match[1]): path for path in workdir.glob(f"{FOLDER}/*") if (match := _FILE.fullmatch(path.name))}
    return dict(sorted(files.items()))
