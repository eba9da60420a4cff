"""JSON and NumPy files of unknown origin: every fault in them is a ``ValueError``."""

import json
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**32  # of the unpacked arrays of one file


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; raise a ``ValueError`` if it is damaged or nested too deeply for Python."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz``, without pickles.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is damaged, is not an ``.npz``, holds objects, or unpacks to more than :data:`MAX_BYTES`.
    """
    with path.open("rb") as opened:
        try:
            with np.load(opened) as arrays:
                if sum(entry.file_size for entry in arrays.zip.infolist()) > MAX_BYTES:
                    raise ValueError("it unpacks to more than memory may hold")
                found = dict(arrays)
            if not all(isinstance(array, np.ndarray) for array in found.values()):
                raise ValueError("it holds other files than arrays")
            return found
        except Exception as error:  # zipfile, zlib and numpy raise many kinds for damaged files
            raise ValueError(f"it is damaged or is not an .npz ({type(error).__name__})") from None
