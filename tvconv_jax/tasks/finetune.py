"""Fine-tuning: a run that starts from weights of another one, ours or the reference's, with some of them frozen."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from tvconv_jax.convert.reference import from_torch
from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.training import checkpoint_files as files
from tvconv_jax.training.state import TrainState
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import user_path
from tvconv_jax.utils.sizes import Size, height_width

HEAD = "params/class_weights"
Arrays = dict[str, np.ndarray]


def freeze_matching(optimizer: optax.GradientTransformation, patterns: str) -> optax.GradientTransformation:
    """Freeze parameters in an optimizer: no update, no weight decay, no momentum is kept for them.

    Patterns are globs of names, ``*`` over slashes too: ``model/stem/*,model/block_[1-5]/*``; empty: none. Running
    statistics are not parameters: they go on following the images.

    Raises:
        UserError: At ``init``, if a pattern matches nothing, or all is frozen.
    """
    if not patterns:
        return optimizer

    def label(params: Any) -> Any:
        names = list(flatten_dict(params, sep="/"))
        for pattern in patterns.split(","):
            if not any(_frozen(name, pattern) for name in names):
                raise UserError(f"finetune.freeze {pattern!r} matches none of {_short(names)}; correct it.")
        if all(_frozen(name, patterns) for name in names):
            raise UserError(f"finetune.freeze {patterns!r} matches every parameter; leave some to train.")
        return unflatten_dict({name: "frozen" if _frozen(name, patterns) else "trained" for name in names}, sep="/")

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, label)


def describe_frozen(params: Any, patterns: str) -> str:
    """Return a line about the frozen parameters."""
    sizes = {name: leaf.size for name, leaf in flatten_dict(params, sep="/").items()}
    frozen = [name for name in sizes if _frozen(name, patterns)]
    return f"frozen: {len(frozen)} of {len(sizes)} arrays, {sum(sizes[n] for n in frozen):,} numbers: {_parts(frozen)}"


def start_from(source: str, state: TrainState, model: nn.Module, log_fn: Callable[[str], None]) -> TrainState:
    """Return a fresh state with the weights of another run.

    Class weights are loaded if the number of identities is the same, and stay fresh if not. The optimizer and the data
    start again. Shardings are kept.

    Args:
        source: A workdir, with its best checkpoint preferred to its last; or the reference's ``.ckpt`` or ``.pth``.
        state: The fresh state.
        model: The model.
        log_fn: Prints the arrays that are loaded, dropped and fresh.

    Raises:
        UserError: If it cannot be read, or is another model's; both sides are listed.
    """
    path = user_path(source)
    title, found = read_checkpoint(path) if path.is_dir() else read_reference(path, model)
    fresh = _named({"params": state.params, "batch_stats": state.batch_stats})
    columns, head = state.columns.get("class_weights", 0), found.get(HEAD)
    fits = head is None or head.shape == (fresh[HEAD].shape[0], columns)
    taken = {name: value for name, value in found.items() if fits or name != HEAD}
    _check(title, taken, fresh)
    loaded = {name: _place(taken[name], old) if name in taken else old for name, old in fresh.items()}
    new = unflatten_dict(loaded, sep="/")
    parts = _parts([name.removeprefix("params/") for name in taken if name.startswith("params/")])
    log_fn(f"start: {title}: {len(taken)} arrays loaded, {sum(v.size for v in taken.values()):,} numbers: {parts}")
    if not fits:
        log_fn(f"dropped: class_weights of {head.shape[1]} identities, here are {columns}")
    if HEAD in fresh and HEAD not in taken:
        log_fn(f"fresh: class_weights of {columns} identities")
    return state.replace(params=new["params"], batch_stats=new.get("batch_stats", state.batch_stats))


def read_checkpoint(
    workdir: Path, *, kinds: Sequence[str] = ("best", "last"), named: str = "finetune.checkpoint"
) -> tuple[str, Arrays]:
    """Read parameters and statistics of a checkpoint of a workdir, without its model.

    It is the newest whole one of the first of the ``kinds`` with a whole one; ``named`` is the workdir in an error.

    Returns:
        A title of the checkpoint, and its arrays by name, such as ``params/model/stem/conv/kernel``.

    Raises:
        UserError: If there is no whole one.
    """
    checkpoints, errors = files.checkpoints_of(workdir, named), []
    for folder in (checkpoints / kind for kind in kinds):
        for step, path in sorted(files.found(folder).items(), reverse=True):
            found = files.find_error(path) or _read(path)
            if not isinstance(found, str):
                found = files.find_copy(step, found["step"]) or found
            if not isinstance(found, str):
                skipped = f" ({'; '.join(errors)}: skipped)" if errors else ""
                title = f"checkpoint of step {step} in {folder}{skipped}"
                return title, {n: v for n, v in found.items() if n.startswith(("params/", "batch_stats/"))}
            errors.append(f"{folder.name}/{path.name}: {found}")
    reason = f"no whole one ({'; '.join(errors)})" if errors else "none"
    raise UserError(f"{named} {workdir} is a folder with checkpoints: {reason}; name a workdir, or a file.")


def _read(folder: Path) -> Arrays | str:
    """Return the arrays of a checkpoint, or a message if they cannot be read."""
    state = files.LiteralPath(folder / "state")
    try:
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(state).item_metadata.tree
            numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return _named(reader.restore(state, restore_args=numpy))
    except Exception as error:
        if (folder / "state" / files.CHECKSUMS).exists():
            raise  # the files are as they were written: the error is elsewhere
        return f"it cannot be read, {type(error).__name__}"


def check_weights(path: Path, model: nn.Module, image_size: Size) -> None:
    """Raise a ``UserError`` if a file holds no weights of the reference, or those of another model."""
    image = jax.ShapeDtypeStruct((1, *height_width(image_size), 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    title, found = read_reference(path, model)
    found.pop(HEAD, None)
    _check(title, found, _named({"params": {"model": variables["params"]}, "batch_stats": variables["batch_stats"]}))


def read_reference(path: Path, model: nn.Module) -> tuple[str, Arrays]:
    """Read the reference's weights, as :func:`read_checkpoint`; Lightning names its AM-Softmax ``head.``."""
    state = read_torch_checkpoint(path)
    head = state.pop("head.weight", None)
    try:
        variables = from_torch(state, model)
    except ValueError as error:
        raise UserError(f"finetune.checkpoint {path}: {error}") from None
    named = _named({"params": {"model": variables["params"]}, "batch_stats": variables["batch_stats"]})
    return f"{path}, weights of PyTorch", named | ({} if head is None else {HEAD: head})


def _check(title: str, taken: Arrays, fresh: Mapping[str, jax.Array]) -> None:
    missing, extra = sorted(fresh.keys() - taken.keys() - {HEAD}), sorted(taken.keys() - fresh.keys())
    error = f"finetune.checkpoint, {title}, is another model's"
    if missing or extra:
        raise UserError(
            f"{error}. Missing there: {_short(missing)}. Left over: {_short(extra)}. Set config.model as it was, or "
            f"name another."
        )
    other = [name for name, value in taken.items() if name != HEAD and value.shape != fresh[name].shape]
    for name in other[:1]:
        raise UserError(
            f"{error}: {len(other)} arrays have other shapes, first {name}: {taken[name].shape} there, "
            f"{fresh[name].shape} here. Set config.model and data.image_size as they were."
        )


def _place(value: np.ndarray, old: jax.Array) -> jax.Array:
    """Shard an array as the one that it replaces, with zeros behind if that was padded."""
    padding = [(0, wanted - size) for wanted, size in zip(old.shape, value.shape, strict=True)]
    whole = np.pad(np.asarray(value, old.dtype), padding)
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: whole[index])


def _named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries, lists and tuples, as optimizers have them, by keys with slashes."""
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {prefix.removesuffix("/"): tree}
    return {name: leaf for key, value in tree.items() for name, leaf in _named(value, f"{prefix}{key}/").items()}


def _frozen(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split(","))


def _parts(names: list[str]) -> str:
    """List the parts of the model that names belong to: ``model/block_1/norm/scale`` to ``model/block_1``."""
    return _short(list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names)))


def _short(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "none"
