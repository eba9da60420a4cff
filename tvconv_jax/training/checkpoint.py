"""Checkpoints: the last ones, to go on from, and the best one. Written whole or not at all, in the background."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from tvconv_jax.errors import TrainingError, UserError
from tvconv_jax.training import checksums
from tvconv_jax.training.state import TrainState, from_saved, saved_like, to_saved
from tvconv_jax.training.storage import full, is_full

ITEMS = ("state", "data")
OLD = "old"  # where a checkpoint goes that makes room: what is half deleted no longer has a checkpoint's name


class Checkpoints:
    """The folder ``checkpoints/`` of a run: ``last`` keeps two, ``best`` one.

    Use as a context manager; leaving it waits for what is still being written.

    Args:
        workdir: Of the run.
        say: Prints the line about a checkpoint that is damaged.
    """

    def __init__(self, workdir: Path, say: Callable[[str], None] = print) -> None:
        self._folder, self._say = (workdir / "checkpoints").absolute(), say
        with self._full_disk_named():
            self._last = _manager(self._folder / "last", keep=2)
            self._best = _manager(self._folder / "best", keep=1)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        try:
            with self._full_disk_named():
                for manager in (self._last, self._best):
                    manager.close()
                    _empty_old(manager)
        except TrainingError:
            if not isinstance(error, TrainingError):  # the first one has said it
                raise

    def save(self, state: TrainState, data: dict[str, Any]) -> None:
        """Saves the state and the position in the data as the last checkpoint; returns before it is written.

        Raises:
            TrainingError: If the disk is full, now or for the checkpoint before. Those that are whole stay.
        """
        with self._full_disk_named():
            _save(self._last, state, data)

    def save_best(self, state: TrainState, data: dict[str, Any]) -> None:
        """Saves the state as the best one so far."""
        with self._full_disk_named():
            _save(self._best, state, data)

    def restore(
        self, like: TrainState, *, best: bool = False, set_aside: bool = False
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that is whole, or the best one.

        Args:
            like: A state of the same model; shapes, dtypes and shardings are taken from it.
            best: Whether the best one is wanted.
            set_aside: Whether damaged ones are moved to ``checkpoints/damaged``, so that the run can save their steps
                anew. Nothing is deleted.

        Returns:
            The state and the data position, or ``None`` if there is none.

        Raises:
            UserError: If the checkpoint is another model's, or none is whole.
        """
        manager, faults = self._best if best else self._last, {}
        manager.wait_until_finished()
        for step in sorted(manager.all_steps(), reverse=True):
            faults[step] = self._agreed_fault(Path(manager.directory) / str(step))
            restored = None if faults[step] else _restore(manager, step, like)
            if isinstance(restored, str):
                faults[step] = restored
            elif restored:
                self._tell(manager, faults, step, set_aside)
                return restored
        if faults:
            told = "; ".join(f"step {step}: {fault}" for step, fault in faults.items())
            raise UserError(
                f"no checkpoint in {manager.directory} is whole ({told}). Bring one back, or choose another --workdir; "
                f"nothing was deleted."
            )
        return None

    def _agreed_fault(self, folder: Path) -> str | None:
        """What is wrong with a checkpoint; the first process looks, and all believe it."""
        fault = None
        if jax.process_index() == 0:
            for item in ITEMS:
                whole = (folder / item).is_dir()
                fault = fault or (checksums.fault(folder / item) if whole else f"{item} is missing")
        if jax.process_count() > 1:
            text = np.zeros(256, np.uint8)
            raw = (fault or "").encode()[: len(text)]
            text[: len(raw)] = list(raw)
            text = multihost_utils.broadcast_one_to_all(text)
            fault = bytes(np.asarray(text)).rstrip(b"\0").decode(errors="replace") or None
        return fault

    def _tell(self, manager: ocp.CheckpointManager, faults: dict[int, str | None], step: int, set_aside: bool) -> None:
        damaged = {at: fault for at, fault in faults.items() if fault}
        if not damaged:
            return
        if set_aside:
            if jax.process_index() == 0:
                for at in damaged:
                    _move(Path(manager.directory) / str(at), self._folder / "damaged")
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            manager.reload()
        told = "; ".join(f"step {at}: {fault}" for at, fault in damaged.items())
        moved = f", moved to {self._folder / 'damaged'}" if set_aside else ""
        self._say(f"damaged checkpoint ({told}){moved}; the one of step {step} is whole and taken instead.")

    @contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_full(error):
                raise
            steps = [int(path.name) for path in (self._folder / "last").glob("*") if path.name.isdigit()]
            whole = f"the last whole one is of step {max(steps)}" if steps else "there is none yet"
            told = full(self._folder, f"a checkpoint; {whole}")
            for part in self._folder.glob("*/*.orbax-checkpoint-tmp*"):  # it would be in the way of the next try
                shutil.rmtree(part, ignore_errors=True)
            raise told from error


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    # Processes wait for each other by name and step; both folders may be written at the same step.
    together = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True, multiprocessing_options=together, todelete_subdir=OLD
    )
    handlers = {
        "state": _summed(ocp.StandardCheckpointHandler(multiprocessing_options=together)),
        "data": _summed(ocp.JsonCheckpointHandler(multiprocessing_options=together)),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _summed(handler: Any) -> Any:
    """A handler of Orbax that leaves checksums too, while what it wrote still has its temporary name."""
    finish = handler.finalize

    def finalize(directory: Any) -> None:
        finish(directory)
        if jax.process_index() == 0:  # by now all processes have written
            checksums.write(Path(directory))

    handler.finalize = finalize
    return handler


def _save(manager: ocp.CheckpointManager, state: TrainState, data: dict[str, Any]) -> None:
    step = int(state.step)
    if step in manager.all_steps():
        return
    manager.wait_until_finished()
    _empty_old(manager)
    # The next step takes the state's memory for its own; what is written in the background is a copy.
    copy = ocp.args.StandardSave(to_saved(state))
    manager.save(step, args=ocp.args.Composite(state=copy, data=ocp.args.JsonSave(data)))


def _empty_old(manager: ocp.CheckpointManager) -> None:
    if jax.process_index() == 0:
        shutil.rmtree(Path(manager.directory) / OLD, ignore_errors=True)


def _restore(manager: ocp.CheckpointManager, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]] | str:
    """A checkpoint's state and data, or in a few words why it cannot be read."""
    try:
        saved = saved_like(like)
        _check(manager, step, saved)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(saved), data=ocp.args.JsonRestore())
        restored = manager.restore(step, args=args)
    except UserError:
        raise
    except Exception as error:
        if (Path(manager.directory) / str(step) / "state" / checksums.NAME).exists():
            raise  # what was written is what is read: the fault is elsewhere
        return f"it cannot be read, {type(error).__name__}"
    return from_saved(restored["state"], like), restored["data"]


def _move(folder: Path, to: Path) -> None:
    to.mkdir(exist_ok=True)
    number = len(list(to.iterdir()))
    folder.rename(to / f"{folder.parent.name}-{folder.name}-{number}")


def _check(manager: ocp.CheckpointManager, step: int, like: TrainState) -> None:
    saved = _shapes(manager.item_metadata(step)["state"].tree)
    wanted = _shapes(like)
    wrong = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"the checkpoint of step {step} in {manager.directory} is another model's: {len(wrong)} arrays differ, "
            f"first {name}: saved {saved.get(name)}, wanted {wanted.get(name)}. Choose another --workdir."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _name(path: tuple) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
