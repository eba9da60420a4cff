"""One folder of checkpoints, ``last`` or ``best``: written in the background, read back before it gets its name."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore  # Orbax stores arrays with it

from tvconv_jax.training import checkpoint_files as files
from tvconv_jax.training.checkpoint_files import LiteralPath
from tvconv_jax.utils.errors import TrainingError


class StepFolder:
    """The checkpoints of one kind, each in a folder named by its step; ``folder`` is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saving: int | None = None
        self._failed: int | None = None
        # Processes wait for each other by name and step; both folders may be written at the same step.
        together = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name)
        handler, self._writers = _proving(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(multiprocessing_options=together),
                state=ocp.StandardCheckpointHandler(multiprocessing_options=together),
                data=ocp.JsonCheckpointHandler(multiprocessing_options=together),
            )
        )
        self._checkpointer = ocp.AsyncCheckpointer(handler, multiprocessing_options=together)

    def save(self, step: int, state: Any, data: dict[str, Any]) -> None:
        """Begin to write a checkpoint, after :meth:`wait`; it replaces another one of the same step.

        Args:
            step: Its number.
            state: A copy, for the next step takes the memory of the run's state.
            data: The position in the data.
        """
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            before = self.folder / str(step)
            if before.is_dir():
                files.remove(replaced := before.with_name(f"{step}{files.REPLACED}"))
                before.rename(replaced)
        self._saving = step
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        with self._cleared(step):
            self._checkpointer.save(LiteralPath(self.folder / str(step)), args=args, force=True)

    def wait(self) -> None:
        """Wait until what is being written has its name.

        Raises:
            TrainingError: If it cannot be read. It does not get its name then, and older ones stay.
        """
        step, self._saving = self._saving, None
        if step is None:
            return
        with self._cleared(step):
            self._checkpointer.wait_until_finished()
        if jax.process_index() == 0:
            path = files.found(self.folder).get(step)
            if path is None or path.name != str(step) or not (path / files.MANIFEST).is_file():
                raise _unreadable(self.folder / str(step), "it is not among the checkpoints of that folder")
            files.remove(self.folder / f"{step}{files.REPLACED}")

    def close(self) -> None:
        """Wait, and end the threads that write."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()
            self._remove_failed()

    def restore(self, path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
        """Read the state, with the shapes and shardings of ``like``, and the position in the data."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        restored = self._checkpointer.restore(LiteralPath(path), args=args)
        return restored["state"], restored["data"]

    def metadata(self, path: Path) -> Any:
        """Return the tree of Orbax's metadata of a state, whose leaves have the arrays' shapes."""
        return self._checkpointer.metadata(LiteralPath(path)).item_metadata["state"].tree

    @contextlib.contextmanager
    def _cleared(self, step: int) -> Iterator[None]:
        """Remove a checkpoint that failed, once nothing writes into it any more."""
        try:
            yield
        except Exception:
            self._saving, self._failed = None, step
            for writer in self._writers:  # of several that fail Orbax waits for the first alone
                with contextlib.suppress(Exception):
                    writer.result()
            self._remove_failed()
            raise

    def _remove_failed(self) -> None:
        if self._failed is not None and jax.process_index() == 0:
            for part in [*self.folder.glob(f"{self._failed}.orbax-checkpoint-tmp*")]:
                files.remove(part)


def _unreadable(path: Path, error: str) -> TrainingError:
    return TrainingError(
        f"the checkpoint of step {path.name} in {path.parent} was written, but cannot be read back ({error}); those "
        f"before it stay. Look at the disk, or choose another --workdir."
    )


def _proving(handler: ocp.CompositeCheckpointHandler) -> tuple[ocp.CompositeCheckpointHandler, list[Any]]:
    """Let a handler write checksums and read the checkpoint back before it gets its name.

    Returns:
        The handler, and a list of the futures that write in the background, kept up to date.
    """
    async_save, finish, writers = handler.async_save, handler.finalize, []

    async def saved(*args: Any, **kwargs: Any) -> Any:
        futures = await async_save(*args, **kwargs)
        writers[:] = [future for future in jax.tree.leaves(futures) if future is not None]
        return futures

    def finalize(directory: Any) -> None:
        """Run in a thread of the first process, when all processes have written."""
        finish(directory)
        for item in files.ITEMS:
            files.write_checksums(Path(directory) / item)
        if error := _find_unreadable(Path(directory)):
            raise _unreadable(Path(directory).with_name(Path(directory).name.partition(".")[0]), error)

    handler.async_save, handler.finalize = saved, finalize
    return handler, writers


def _find_unreadable(folder: Path) -> str | None:
    """Return a message if a checkpoint cannot be read back; ``None`` if it can."""
    if error := files.find_error(folder):
        return error
    if not (folder / files.MANIFEST).is_file():
        return f"{files.MANIFEST} is missing"
    try:
        json.loads((folder / "data" / "metadata").read_text())
        missing = _missing_arrays(folder / "state")
    except Exception as error:
        return f"{type(error).__name__} where it is opened"
    return f"of its arrays {len(missing)} cannot be reached, first {missing[0]}" if missing else None


def _missing_arrays(folder: Path) -> list[str]:
    """Return names in Orbax's index of the arrays that the store, opened as readers do, does not have.

    Only keys are read; the checksums cover the bytes. If Orbax's layout is another one, it opens the folder itself,
    which takes a hundred times as long.
    """
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()
    there = Counter(key.decode().rpartition("/")[0] for key in store.list().result())
    try:
        tree = json.loads((folder / "_METADATA").read_text())["tree_metadata"].values()
        arrays = (array for array in tree if not array["value_metadata"]["skip_deserialize"])
        names = [".".join(key["key"] for key in array["key_metadata"]) for array in arrays]
    except (OSError, KeyError, TypeError):
        names = []
    if any(there[name] for name in names):
        return [name for name in names if there[name] < 2]  # metadata, and a chunk: Orbax stores no empty arrays
    with ocp.PyTreeCheckpointer() as reader:
        return [] if reader.metadata(LiteralPath(folder)).item_metadata else ["every array"]
