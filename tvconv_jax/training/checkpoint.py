"""Checkpoints: the last ones, to go on from, and the best one. Written whole or not at all, in the background."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from tvconv_jax.training import checksums, steps
from tvconv_jax.training.state import TrainState, from_saved, saved_like, to_saved
from tvconv_jax.training.step_folder import StepFolder
from tvconv_jax.utils.errors import TrainingError, UserError
from tvconv_jax.utils.storage import full, is_full

KEPT = 2  # of ``last``


class Checkpoints:
    """The folder ``checkpoints/`` of a run: ``last`` keeps two, ``best`` one.

    An older one is deleted when the next save begins, or on leaving: by then the newer ones have been proved readable.
    Use as a context manager; leaving it waits for what is still being written.

    Args:
        workdir: Of the run.
        say: Prints the line about a checkpoint that is damaged.

    Raises:
        UserError: If checkpoints cannot be reached under the workdir's name.
    """

    def __init__(self, workdir: Path, say: Callable[[str], None] = print) -> None:
        self._folder, self._say = steps.checkpoints_of(workdir), say
        self._last, self._best = (StepFolder(self._folder / kind) for kind in steps.KINDS)
        self._saved: dict[StepFolder, int] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        try:
            with self._faults_named():
                try:
                    self._last.close()
                finally:
                    self._best.close()
                self._drop_old()
        except TrainingError:
            if not isinstance(error, TrainingError):  # the first one has said it
                raise

    def save(self, state: TrainState, data: dict[str, Any]) -> None:
        """Saves the state and the position in the data as the last checkpoint; returns before it is written.

        Raises:
            TrainingError: If the disk is full, or the checkpoint cannot be read back, now or for the checkpoint
                before. Those that are whole stay.
        """
        self._save(self._last, state, data)

    def save_best(self, state: TrainState, data: dict[str, Any]) -> None:
        """Saves the state as the best one so far."""
        self._save(self._best, state, data)

    def _save(self, kind: StepFolder, state: TrainState, data: dict[str, Any]) -> None:
        step = int(state.step)
        with self._faults_named():
            kind.wait()
            self._drop_old()
            path = kind.folder / str(step)
            if jax.process_index() == 0 and os.path.lexists(path) and (fault := steps.fault(path)):
                self._say(f"{path} is in the way of a checkpoint ({fault}); moved to {self._set_aside(path)}.")
            kind.save(step, to_saved(state), data)
            self._saved[kind] = step

    def restore(
        self, like: TrainState, *, best: bool = False, set_aside: bool = False
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that is whole, or the best one.

        Args:
            like: A state of the same model; shapes, dtypes and shardings are taken from it.
            best: Whether the best one is wanted.
            set_aside: Whether damaged ones are moved to ``checkpoints/damaged``, so that the run can save their steps
                anew, and what a killed run left half written is removed. No checkpoint is deleted, but for a best one
                of a step that the run goes back behind, if an older one of its steps is there.

        Returns:
            The state and the data position, or ``None`` if there is none.

        Raises:
            UserError: If the checkpoint is another model's, or none is whole.
        """
        kind, faults = self._best if best else self._last, {}
        kind.wait()
        if set_aside and jax.process_index() == 0:
            for folder in (self._last.folder, self._best.folder):
                steps.clear(folder)
        for step, name in sorted(_agreed(lambda: [[s, path.name] for s, path in steps.found(kind.folder).items()]))[
            ::-1
        ]:
            path = kind.folder / name
            faults[step] = _agreed(lambda path=path: steps.fault(path))
            restored = None if faults[step] else _restore(kind, step, path, like)
            if isinstance(restored, str):
                faults[step] = restored
            elif restored:
                self._tell(kind, faults, step, set_aside)
                if set_aside and not best:
                    self._go_back_to(step)
                return restored
        if faults:
            told = "; ".join(f"step {step}: {fault}" for step, fault in faults.items())
            raise UserError(
                f"no checkpoint in {kind.folder} is whole ({told}). Bring one back, or choose another --workdir; "
                f"nothing was deleted."
            )
        return None

    def _tell(self, kind: StepFolder, faults: dict[int, str | None], step: int, set_aside: bool) -> None:
        damaged = {at: fault for at, fault in faults.items() if fault}
        if not damaged:
            return
        if set_aside:
            if jax.process_index() == 0:
                for path in [path for at, path in steps.found(kind.folder).items() if at in damaged]:
                    self._set_aside(path)
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        told = "; ".join(f"step {at}: {fault}" for at, fault in damaged.items())
        moved = f", moved to {self._folder / 'damaged'}" if set_aside else ""
        self._say(f"damaged checkpoint ({told}){moved}; the one of step {step} is whole and taken instead.")

    def _set_aside(self, path: Path) -> Path:
        damaged = self._folder / "damaged"
        damaged.mkdir(exist_ok=True)
        number, name = len(list(damaged.iterdir())), f"{path.parent.name}-{path.name}"
        while os.path.lexists(damaged / f"{name}-{number}"):
            number += 1
        path.rename(damaged / f"{name}-{number}")
        return damaged

    def _go_back_to(self, step: int) -> None:
        """Deletes best states of steps that are to be taken again, if the best one of those that were taken is there.

        On other devices the same step may score otherwise: what the run then calls its best would not be what is kept.
        """
        if jax.process_index() == 0:
            best = steps.found(self._best.folder)
            if any(at <= step and not steps.fault(path) for at, path in best.items()):
                for path in (path for at, path in best.items() if at > step):
                    steps.drop(path)

    def _drop_old(self) -> None:
        """Deletes what need not be kept of those that have been proved readable, in the first process."""
        if jax.process_index() != 0:
            return
        last, best = (_complete(kind.folder) for kind in (self._last, self._best))
        self._keep(self._last, last, set(sorted(last)[-KEPT:]))
        # The best one before stays until the run can go on from behind the new one.
        sure = [step for step in best if last and step <= max(last)]
        self._keep(self._best, best, {max(sure)} | (best.keys() - sure) if sure else set(sorted(best)[-1:]))

    def _keep(self, kind: StepFolder, complete: dict[int, Path], kept: set[int]) -> None:
        for step, path in complete.items():
            if step not in kept and step != self._saved.get(kind):
                steps.drop(path)

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except (TrainingError, UserError):
            raise
        except Exception as error:
            whole = _complete(self._last.folder)
            whole = f"the last whole one is of step {max(whole)}" if whole else "there is none yet"
            if is_full(error):
                raise full(self._folder, f"a checkpoint; {whole}") from error
            reason = next(iter(str(error).splitlines()), "")
            raise TrainingError(
                f"a checkpoint cannot be written to {self._folder} ({type(error).__name__}: {reason[:200]}); {whole}. "
                f"See to that folder; the same command goes on."
            ) from error


def _complete(folder: Path) -> dict[int, Path]:
    """Those that hold all that a checkpoint must hold; others' folders neither count nor are deleted."""
    return {step: path for step, path in steps.found(folder).items() if not steps.lacks(path)}


def _agreed(look: Callable[[], Any]) -> Any:
    """What the first process finds, as JSON holds it; all others believe it."""
    value = look() if jax.process_index() == 0 else None
    if jax.process_count() == 1:
        return value
    raw = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(raw.size)))
    text = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        text[:] = raw
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))))


def _restore(kind: StepFolder, step: int, path: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]] | str:
    """A checkpoint's state and data, or in a few words why it cannot be read."""
    try:
        saved = saved_like(like)
        _check(kind, step, saved)
        state, data = kind.restore(path, saved)
    except UserError:
        raise
    except Exception as error:
        if (path / "state" / checksums.NAME).exists():
            raise  # what was written is what is read: the fault is elsewhere
        return f"it cannot be read, {type(error).__name__}"
    restored = from_saved(state, like)
    return steps.renamed(step, restored.step) or (restored, data)


def _check(kind: StepFolder, step: int, like: TrainState) -> None:
    saved = _shapes(kind.item_metadata(step)["state"].tree)
    wanted = _shapes(like)
    wrong = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"the checkpoint of step {step} in {kind.folder} is another model's: {len(wrong)} arrays differ, "
            f"first {name}: saved {saved.get(name)}, wanted {wanted.get(name)}. Choose another --workdir."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _name(path: tuple) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
