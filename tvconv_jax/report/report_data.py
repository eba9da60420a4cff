"""What a report shows that no other file of a run holds; kept in ``report.npz``."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tvconv_jax.training.distributed import to_host
from tvconv_jax.training.maps import affinity_maps
from tvconv_jax.utils.files import write_bytes
from tvconv_jax.utils.plain_files import read_arrays

NAME = "report.npz"
MAX_STEPS = 100  # drawn as stairs of 199 points


class ReportData(NamedTuple):
    """Arrays behind a report.

    Attributes:
        learning_rates: ``[p, 2]``, steps and the learning rate at them.
        affinity: Affinity maps ``[h, w, a]`` of every layer that has them, by its name; in the model's order.
        cosines: By verification set, the cosine of every pair, ``[n]``.
        same: By verification set, whether the pair shows one person, boolean ``[n]``.
    """

    learning_rates: np.ndarray
    affinity: Mapping[str, np.ndarray]
    cosines: Mapping[str, np.ndarray]
    same: Mapping[str, np.ndarray]


def learning_rates(schedule: Callable[[int], Any], steps: int) -> np.ndarray:
    """A schedule at steps spread over a run, the first and the last among them, ``[p, 2]``."""
    at = np.unique(np.linspace(0, max(steps - 1, 0), MAX_STEPS).astype(np.int32))
    return np.stack([at, np.asarray(jax.vmap(schedule)(at.astype(np.float32)))], axis=-1).astype(np.float64)


def save(workdir: Path, evidence: ReportData) -> None:
    """Writes the file whole or not at all."""
    arrays = {"learning_rates": evidence.learning_rates}
    for group in ("affinity", "cosines", "same"):
        arrays |= {f"{group}/{name}": value for name, value in getattr(evidence, group).items()}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(workdir / NAME, content.getvalue())


def load(workdir: Path) -> ReportData | None:
    """What :func:`save` wrote; ``None`` if there is none, as in a run of an older version."""
    if not (workdir / NAME).exists():
        return None
    file = read_arrays(workdir / NAME)
    groups = {
        group: {name.partition("/")[2]: file[name] for name in file if name.startswith(f"{group}/")}
        for group in ("affinity", "cosines", "same")
    }
    return ReportData(file["learning_rates"], **groups)


def of_run(schedule: Callable[[int], Any], steps: int, params: Mapping[str, Any]) -> ReportData:
    """What every run has: learning rates, and affinity maps where its operator has them."""
    maps = {name: to_host(value) for name, value in affinity_maps(params).items()}
    return ReportData(learning_rates(schedule, steps), maps, {}, {})
