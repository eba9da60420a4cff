"""The numbers of a report that no other file of a run holds, kept in ``report.npz``."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from tvconv_jax.training.distributed import to_host
from tvconv_jax.training.maps import affinity_maps
from tvconv_jax.utils.files import read_arrays, write_bytes

NAME = "report.npz"
GROUPS = ("affinity", "cosines", "same", "test")
MAX_STEPS = 100  # of the learning-rate schedule


class ReportData(NamedTuple):
    """Arrays behind a report."""

    learning_rates: np.ndarray  # [p, 2], steps and the learning rate at them
    affinity: Mapping[str, np.ndarray]  # affinity maps [h, w, a] by layer, in the model's order
    cosines: Mapping[str, np.ndarray]  # by verification set, the cosine of every pair, [n]
    same: Mapping[str, np.ndarray]  # by verification set, whether a pair shows the same identity, boolean [n]
    # of a classification run's test images: "probabilities" [n, k], "labels" [n], "names" [n]
    test: Mapping[str, np.ndarray] = MappingProxyType({})


def save(workdir: Path, data: ReportData) -> None:
    """Write ``report.npz``, whole or not at all."""
    arrays = {"learning_rates": data.learning_rates}
    for group in GROUPS:
        arrays |= {f"{group}/{name}": value for name, value in getattr(data, group).items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(workdir / NAME, content.getvalue())


def load(workdir: Path) -> ReportData | None:
    """Read ``report.npz``; ``None`` if it is missing, as in a run of an older version."""
    if not (workdir / NAME).exists():
        return None
    file = read_arrays(workdir / NAME)
    groups = ({name.partition("/")[2]: file[name] for name in file if name.startswith(f"{group}/")} for group in GROUPS)
    return ReportData(file["learning_rates"], *groups)


def of_run(schedule: Callable[[int], Any], steps: int, params: Mapping[str, Any]) -> ReportData:
    """Return the data that every run has: learning rates, and affinity maps where its operator has them."""
    at = np.unique(np.linspace(0, max(steps - 1, 0), MAX_STEPS).astype(np.int32))
    rates = np.stack([at, np.asarray(jax.vmap(schedule)(at.astype(np.float32)))], axis=-1).astype(np.float64)
    return ReportData(rates, {name: to_host(value) for name, value in affinity_maps(params).items()}, {}, {})
