"""Checkpoints of a run: the last ones, to resume from, and the best one, written whole in the background."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, sync_global_devices

from tvconv_jax.training import checkpoint_files as files
from tvconv_jax.training.checkpoint_writer import StepFolder
from tvconv_jax.training.state import TrainState, from_saved, saved_like, to_saved
from tvconv_jax.utils.errors import TrainingError, UserError
from tvconv_jax.utils.storage import full, is_full

NUM_LAST = 2  # kept in ``last``


class Checkpoints:
    """The folder ``checkpoints/`` of a run: ``last`` keeps two, ``best`` one.

    An older one is deleted when the next save begins, or on leaving: by then the newer ones have been read back.
    Use as a context manager; leaving it waits for what is still being written. ``log_fn`` prints a line about a
    damaged checkpoint.

    Raises:
        UserError: If checkpoints cannot be reached under the workdir's name.
    """

    def __init__(self, workdir: Path, log_fn: Callable[[str], None] = print) -> None:
        self._folder, self._log = files.checkpoints_of(workdir), log_fn
        self._last, self._best = (StepFolder(self._folder / kind) for kind in files.KINDS)
        self._saved: dict[StepFolder, int] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        try:
            with self._errors_named():
                try:
                    self._last.close()
                finally:
                    self._best.close()
                self._drop_old()
        except TrainingError:
            if not isinstance(error, TrainingError):  # that one was the first
                raise

    def save(self, state: TrainState, data: dict[str, Any], *, best: bool = False) -> None:
        """Save the state and the position in the data as the last or best checkpoint; return before it is written.

        Raises:
            TrainingError: If the disk is full, or the checkpoint cannot be read back, now or for the checkpoint
                before. Those that are whole stay.
        """
        kind, step = self._best if best else self._last, int(state.step)
        with self._errors_named():
            kind.wait()
            self._drop_old()
            path = kind.folder / str(step)
            if jax.process_index() == 0 and os.path.lexists(path) and (error := files.find_error(path)):
                self._log(f"{path} is in the way of a checkpoint ({error}); moved to {self._set_aside(path)}.")
            kind.save(step, to_saved(state), data)
            self._saved[kind] = step

    def restore(
        self, like: TrainState, *, best: bool = False, set_aside: bool = False
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Return the state and data position of the newest checkpoint that is whole, ``None`` if there is none.

        Args:
            like: A state of the same model, which gives shapes, dtypes and shardings.
            best: Whether to restore the best one.
            set_aside: Whether to move damaged ones to ``checkpoints/damaged``, so that the run can save their steps
                again, and to remove what a killed run left half written. The only checkpoints deleted are best ones of
                steps that the run goes back behind, if an older best one is there.

        Raises:
            UserError: If the checkpoint is another model's, or none is whole.
        """
        kind, errors = self._best if best else self._last, {}
        kind.wait()
        if set_aside and jax.process_index() == 0:
            for folder in (self._last.folder, self._best.folder):
                files.clear(folder)
        names = _agreed(lambda: [[step, path.name] for step, path in files.found(kind.folder).items()])
        for step, name in sorted(names, reverse=True):
            path = kind.folder / name
            error = _agreed(lambda path=path: files.find_error(path))
            restored = error or _restore(kind, step, path, like)
            if not isinstance(restored, str):
                if errors:
                    self._report_damaged(kind, errors, step, set_aside)
                if set_aside and not best:
                    self._go_back_to(step)
                return restored
            errors[step] = restored
        if errors:
            raise UserError(
                f"no checkpoint in {kind.folder} is whole ({_listed(errors)}). Bring one back, or choose another "
                f"--workdir; nothing was deleted."
            )
        return None

    def _report_damaged(self, kind: StepFolder, errors: dict[int, str], step: int, set_aside: bool) -> None:
        if set_aside and jax.process_index() == 0:
            for at, path in files.found(kind.folder).items():
                if at in errors:
                    self._set_aside(path)
        if set_aside and jax.process_count() > 1:
            sync_global_devices("damaged checkpoints are set aside")
        moved = f", moved to {self._folder / 'damaged'}" if set_aside else ""
        self._log(f"damaged checkpoint ({_listed(errors)}){moved}; the one of step {step} is whole and taken instead.")

    def _set_aside(self, path: Path) -> Path:
        damaged = self._folder / "damaged"
        damaged.mkdir(exist_ok=True)
        number, name = len(list(damaged.iterdir())), f"{path.parent.name}-{path.name}"
        while os.path.lexists(damaged / f"{name}-{number}"):
            number += 1
        path.rename(damaged / f"{name}-{number}")
        return damaged

    def _go_back_to(self, step: int) -> None:
        """Delete best states of steps that will be taken again, if an older best one is there.

        On other devices the same step may score differently: the run's best would not be the one that is kept.
        """
        best = files.found(self._best.folder) if jax.process_index() == 0 else {}
        if any(at <= step and not files.find_error(path) for at, path in best.items()):
            for path in (path for at, path in best.items() if at > step):
                files.drop(path)

    def _drop_old(self) -> None:
        """Delete checkpoints that need not be kept, in the first process."""
        if jax.process_index() != 0:
            return
        last, best = (_complete(kind.folder) for kind in (self._last, self._best))
        # The best one before stays until the run can resume from behind the new one.
        sure = [step for step in best if last and step <= max(last)]
        kept = {max(sure)} | (best.keys() - sure) if sure else sorted(best)[-1:]
        for kind, complete, steps in ((self._last, last, sorted(last)[-NUM_LAST:]), (self._best, best, kept)):
            for step, path in complete.items():
                if step not in steps and step != self._saved.get(kind):
                    files.drop(path)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
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


def _listed(errors: dict[int, str]) -> str:
    return "; ".join(f"step {step}: {error}" for step, error in errors.items())


def _complete(folder: Path) -> dict[int, Path]:
    """Return the checkpoints with all their parts; foreign folders neither count nor are deleted."""
    return {step: path for step, path in files.found(folder).items() if not files.find_missing(path)}


def _agreed(look: Callable[[], Any]) -> Any:
    """Return what ``look`` finds in the first process, a value of JSON, in every process."""
    if jax.process_count() == 1:
        return look()
    text = np.frombuffer(json.dumps(look() if jax.process_index() == 0 else None).encode(), np.uint8)
    size = int(broadcast_one_to_all(np.int32(text.size)))
    return json.loads(bytes(np.asarray(broadcast_one_to_all(np.resize(text, size)))))


def _restore(kind: StepFolder, step: int, path: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]] | str:
    """Return a checkpoint's state and data, or a message if it cannot be read."""
    try:
        saved = saved_like(like)
        _check(path, _shapes(kind.metadata(path)), _shapes(saved))
        state, data = kind.restore(path, saved)
    except UserError:
        raise
    except Exception as error:
        if (path / "state" / files.CHECKSUMS).exists():
            raise  # the files are as they were written: the error is elsewhere
        return f"it cannot be read, {type(error).__name__}"
    restored = from_saved(state, like)
    return files.find_copy(step, restored.step) or (restored, data)


def _check(path: Path, saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    if wrong := sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name)):
        name = wrong[0]
        raise UserError(
            f"the checkpoint of step {path.name.removesuffix(files.REPLACED)} in {path.parent} is another model's: "
            f"{len(wrong)} arrays differ, first {name}: saved {saved.get(name)}, wanted {wanted.get(name)}. Choose "
            f"another --workdir."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
