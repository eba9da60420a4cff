"""Pretrained weights in files of PyTorch, PyTorch Lightning or safetensors, read without executing anything.

Source of the safetensors format: https://huggingface.co/docs/safetensors.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.convert import torch_pickle
from tvconv_jax.convert.torch_pickle import Content, StandIn, Tensor, Unreadable
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import parse_json
from tvconv_jax.utils.signatures import PICKLE, describe_file

# Keys under which projects keep the weights, most likely first; averages over training come last.
KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "backbone", "module", "params", "weights")
KEYS += ("model_state", "state", "student", "teacher", "model_ema", "ema", "ema_state_dict", "state_dict_ema")
# Prefixes of wrappers: DDP, Lightning, torch.compile, and classes that hold a backbone and a head.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
HEAD = "head."  # of the reference's Lightning module, beside its model
_MAX_DEPTH = 4  # dictionaries within dictionaries
_SAFETENSORS = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bfloat16", "BOOL": "?"}
_SAFETENSORS |= {f"{sign}{8 * size}": f"{sign.lower()}{size}" for sign in "IU" for size in (1, 2, 4, 8)}
_MAX_HEADER = 100_000_000  # bytes, the limit of safetensors


def read_torch_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Read the weights in a file of PyTorch, PyTorch Lightning or safetensors; nothing in it is executed.

    Args:
        path: A safetensors file, or one of ``torch.save`` of any version: a ``state_dict``, or dictionaries with one
            in them, under one of :data:`KEYS` or as the only one.

    Returns:
        Arrays by name, without the prefixes of :data:`WRAPPERS` that all of them share.

    Raises:
        UserError: If the file cannot be read, or holds no weights; names the keys that it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a file of PyTorch weights.")
    try:
        with path.open("rb") as file:
            what = describe_file(path)
            if what == "a safetensors file":
                return without_wrappers(_read_safetensors(path))
            if what and what.startswith("a file that torch.save wrote") or what in ("a ZIP archive", PICKLE):
                legacy = file.read(2) != b"PK"
                file.seek(0)
                content = torch_pickle.read_legacy(file) if legacy else torch_pickle.read_zip(file, path.stat().st_size)
                return without_wrappers(_arrays(content))
            raise Unreadable(f"it is {what}" if what else "it is damaged, or of another program")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or 'damaged'}); name another, or copy it again."
        ) from None
    except Unreadable as error:
        raise UserError(f"{path} is not a file of PyTorch weights ({error}); name another, or copy it again.") from None
    except ValueError as error:
        raise UserError(f"{path} holds no state_dict that can be read: {error}; save model.state_dict().") from None


def without_wrappers(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop the prefixes of :data:`WRAPPERS` that all names have; a head beside the model may lack them.

    Args:
        state: Arrays by name.
    """
    while True:
        inner = [name for name in state if not name.startswith(HEAD)]
        prefix = next((each for each in WRAPPERS if inner and all(name.startswith(each) for name in inner)), None)
        if prefix is None:
            return dict(state)
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _arrays(content: Content) -> dict[str, np.ndarray]:
    """Return the arrays of the state dict in a file."""
    state = _state_dict(content.value)
    arrays = {}
    for name, value in state.items():
        if isinstance(value, (bool, int, float)):
            arrays[name] = np.asarray(value)
            continue
        try:
            if not isinstance(value, Tensor):
                raise Unreadable("it is not a tensor, and no code is executed to make one")
            arrays[name] = content.array(value)
        except Unreadable as error:
            raise ValueError(f"{_plain(name)} cannot be read ({error})") from None
    return arrays


def _state_dict(value: Any) -> dict[str, Any]:
    """Return the state dict in nested dictionaries: the outermost under one of the known keys, or else the only one."""
    if isinstance(value, StandIn):
        raise ValueError("it is a whole pickled object, and no code is executed to make it")
    if not isinstance(value, dict):
        raise ValueError(f"it is a {'list' if type(value) in (list, tuple) else 'single value'}, not names and tensors")
    found = dict(_states(value, ()))
    if not found:
        raise ValueError(f"it holds {_keys(value)}, and no tensors by name")
    for rank in range(1, 1 + _MAX_DEPTH):
        known = [keys for keys in found if len(keys) < rank and all(key in KEYS for key in keys)]
        if known:
            return found[min(known, key=lambda keys: [KEYS.index(key) for key in keys])]
    if len(found) > 1:
        places = ", ".join("".join(f"[{key!r}]" for key in map(_plain, keys)) for keys in found)
        raise ValueError(
            f"it holds {_keys(value)}, and tensors in several places; save one of them alone, as by "
            f"torch.save(torch.load(FILE){places.split(', ')[0]}, ...), out of {places}"
        )
    return next(iter(found.values()))


def _states(value: dict[Any, Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every innermost dictionary of names and tensors, with the keys to it; those of optimizers are skipped."""
    names = [key for key in value if isinstance(key, str)]
    found = False
    for key in names if len(keys) < _MAX_DEPTH else ():
        if isinstance(value[key], dict) and not any(word in key for word in ("optim", "sched", "scaler")):
            for each in _states(value[key], (*keys, key)):
                found = True
                yield each
    if not found and len(names) == len(value) and any(isinstance(part, Tensor) for part in value.values()):
        yield keys, value


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file; bfloat16 comes as float32."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            raise ValueError("its header is longer than the file")
        try:
            header = parse_json(file.read(length))
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    header.pop("__metadata__", None)
    if not header:
        raise ValueError("it is empty")
    data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.zeros(0, np.uint8)
    return {name: _safetensor(name, entry, data) for name, entry in header.items()}


def _safetensor(name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    try:
        dtype, shape, (begin, end) = _SAFETENSORS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if any(type(value) is not int or value < 0 for value in (*shape, begin, end)) or end > len(data):
            raise ValueError("bad numbers")
        array = torch_pickle.to_array(data[begin:end].tobytes(), dtype, "<")
        if end - begin != math.prod(shape) * torch_pickle.element_size(dtype):
            raise ValueError("another size")
        return array.reshape(shape)
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{_plain(name)} is damaged, truncated or of a kind that is not read") from None


def _keys(value: Mapping[Any, Any]) -> str:
    shown = ", ".join(_plain(key) for key in list(value)[:8])
    return f"the keys {shown}{' ...' if len(value) > 8 else ''}" if value else "nothing"


def _plain(key: Any) -> str:
    """Return a key as an error may show it."""
    return "".join(letter for letter in str(key) if letter.isprintable())[:60] if isinstance(key, (str, int)) else "?"
