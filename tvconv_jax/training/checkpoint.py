"""Checkpoints: the last ones, to go on from, and the best one. Written whole or not at all, in the background."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from tvconv_jax.errors import UserError
from tvconv_jax.training.state import TrainState, from_saved, saved_like, to_saved


class Checkpoints:
    """The folder ``checkpoints/`` of a run: ``last`` keeps two, ``best`` one.

    Use as a context manager; leaving it waits for what is still being written.
    """

    def __init__(self, workdir: Path) -> None:
        folder = (workdir / "checkpoints").absolute()
        self._last = _manager(folder / "last", keep=2)
        self._best = _manager(folder / "best", keep=1)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._last.close()
        self._best.close()

    def save(self, state: TrainState, data: dict[str, Any]) -> None:
        """Saves the state and the position in the data as the last checkpoint; returns before it is written."""
        _save(self._last, state, data)

    def save_best(self, state: TrainState, data: dict[str, Any]) -> None:
        """Saves the state as the best one so far."""
        _save(self._best, state, data)

    def restore(self, like: TrainState, *, best: bool = False) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint, or the best one.

        Args:
            like: A state of the same model; shapes, dtypes and shardings are taken from it.
            best: Whether the best one is wanted.

        Returns:
            The state and the data position, or ``None`` if there is none.

        Raises:
            UserError: If the checkpoint is another model's.
        """
        manager = self._best if best else self._last
        step = manager.latest_step()
        if step is None:
            return None
        saved = saved_like(like)
        _check(manager, step, saved)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(saved), data=ocp.args.JsonRestore())
        restored = manager.restore(step, args=args)
        return from_saved(restored["state"], like), restored["data"]


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _save(manager: ocp.CheckpointManager, state: TrainState, data: dict[str, Any]) -> None:
    step = int(state.step)
    if step in manager.all_steps():
        return
    # The next step takes the state's memory for its own; what is written in the background is a copy.
    copy = ocp.args.StandardSave(to_saved(state))
    manager.save(step, args=ocp.args.Composite(state=copy, data=ocp.args.JsonSave(data)))


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
