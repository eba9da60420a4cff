"""Weights that others trained: every form in which they come is read, and what is refused says what it holds."""

import collections
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.utils.errors import UserError

WEIGHTS = {"features.0.weight": torch.arange(6.0).reshape(2, 3), "features.0.bias": torch.tensor([1.0, -2.0])}
EMA = {name: value + 1 for name, value in WEIGHTS.items()}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(6)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def read(path, value, **options):
    torch.save(value, path / "w.pth", **options)
    return read_torch_checkpoint(path / "w.pth")


def assert_weights(found):
    assert found.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(found[name], value.numpy())
        assert found[name].dtype == np.float32


def prefixed(prefix, state=WEIGHTS):
    return collections.OrderedDict((prefix + name, value) for name, value in state.items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3, "optimizer": OPTIMIZER},
        {"model": WEIGHTS, "optimizer": OPTIMIZER, "loss": torch.tensor(0.5), "best": (1, 2)},
        {"net": WEIGHTS},
        {"backbone": WEIGHTS},
        {"ema": EMA, "model": WEIGHTS},
        {"state_dict_ema": EMA, "state_dict": WEIGHTS},
        {"ema_state": WEIGHTS, "epoch": 1},
        {"module": WEIGHTS},
        {"params": WEIGHTS, "params_ema": EMA},
        {"state_dict": {"model": WEIGHTS, "head": {"weight": torch.zeros(1)}}},
        {"anything": {"deeper": WEIGHTS}},
        prefixed("module."),
        prefixed("model."),
        prefixed("_orig_mod.module.model.backbone."),
        {"state_dict": prefixed("module._orig_mod.")},
    ],
)
def test_the_weights_are_found(tmp_path, value, legacy):
    assert_weights(read(tmp_path, value, _use_new_zipfile_serialization=not legacy))


def test_a_head_beside_the_model_stays(tmp_path):
    found = read(tmp_path, {**prefixed("module.model."), "module.head.weight": torch.zeros(2)})
    assert_weights({name: value for name, value in found.items() if name != "head.weight"})
    assert found["head.weight"].shape == (2,)


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_every_kind(tmp_path, legacy):
    base = torch.arange(24).reshape(4, 6)
    tensors = {f"{dtype}": base.to(dtype) for dtype in (torch.float64, torch.int32, torch.int8, torch.bool, torch.half)}
    tensors |= {"view": base[1:, ::2].T, "again": base, "none": torch.zeros(0, 3), "scalar": torch.tensor(7)}
    tensors |= {"parameter": torch.nn.Parameter(torch.ones(2)), "brain": torch.tensor([1.5, -3.0]).bfloat16()}
    found = read(tmp_path, tensors, _use_new_zipfile_serialization=not legacy)
    for name, tensor in tensors.items():
        expected = tensor.detach().float().numpy() if name == "brain" else tensor.detach().numpy()
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert found[name].dtype == expected.dtype


def test_the_byte_order_is_the_files(tmp_path):
    torch.save(WEIGHTS, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as little, zipfile.ZipFile(tmp_path / "big.pth", "w") as big:
        for name in little.namelist():
            data = little.read(name)
            data = b"big" if name.endswith("byteorder") else data
            data = np.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data
            big.writestr(name, data)
    assert_weights(read_torch_checkpoint(tmp_path / "big.pth"))


def safetensors(path, tensors, **changes):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets, **changes}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_safetensors_are_read_too(tmp_path):
    tensors = {f"model.{name}": ("F32", value.numpy()) for name, value in WEIGHTS.items()}
    assert_weights(read_torch_checkpoint(safetensors(tmp_path / "w.safetensors", tensors)))
    brain = {"a": ("BF16", (np.array([1.5, -3.0], "<f4").view("<u4") >> 16).astype("<u2"))}
    assert read_torch_checkpoint(safetensors(tmp_path / "w.safetensors", brain))["a"].tolist() == [1.5, -3]
    for changes in ({"shape": [2**40]}, {"data_offsets": [0, 2**50]}, {"dtype": "X"}, {"shape": [-1]}):
        with pytest.raises(UserError, match="holds no state_dict that can be read: a is damaged, truncated or"):
            read_torch_checkpoint(safetensors(tmp_path / "w.safetensors", brain, **changes))
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**39) + data[8:])
    with pytest.raises(UserError, match="its header is longer than the file"):
        read_torch_checkpoint(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"first": WEIGHTS, "second": EMA, "epoch": 1},
            "it holds the keys first, second, epoch, and tensors in several",
        ),
        ({"epoch": 1, "arch": "mobilenet"}, "it holds the keys epoch, arch, and no tensors by name"),
        ({}, "it holds nothing"),
        ({"a": torch.zeros(1), "b": "text"}, "b cannot be read"),
        (torch.nn.Linear(2, 2), "it is a whole pickled object"),
        (torch.zeros(3), "it is a single value"),
        ({("a", ("b", "c")): torch.zeros(1)}, "keys that are not texts or numbers"),
    ],
)
def test_what_holds_no_weights_says_what_it_holds(tmp_path, value, words):
    with pytest.raises(UserError, match=words) as error:
        read(tmp_path, value)
    assert "\n" not in str(error.value) and "opcode" not in str(error.value)


def pickled(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", data)
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("tensors"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickled(b"\x80\x02]r\xff\xff\xff\x7f."), "it is a list"),  # lets Python's unpickler in C take 32 GiB
        (pickled(b"\x80\x05\x96" + b"\xff" * 5 + b"\0\0\0."), "its pickle is damaged"),  # bytes of a terabyte
        (pickled(b"\x80\x02}" + b")" + b"\x85" * 10**5 + b"Ns."), "keys that are not"),  # hashed until the stack ends
        (pickled(b"(" * 10**5 + b"l" * 10**5 + b"."), "it is a list"),
        (pickled(b"\x80\x02I" + b"9" * 10**5 + b"\n."), "its pickle is damaged"),
        (pickled(b"\0" * 10**8), "it unpacks to many times its size"),
        (
            pickled(b"\x80\x02ctorch._utils\n_rebuild_tensor\nN}U\x0c__defaults__K\x05s\x86b."),
            "a state for what has none",
        ),
        (pickle.dumps({"a": np.zeros(3)}), "it is a pickle that torch.save did not write"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"secret", "its pickle is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a Git LFS pointer"),
        (tarred(), "it is a tar archive"),
        (b"\x93NUMPY" + bytes(90), "it is a NumPy array"),
    ],
)
def test_bombs_and_other_files_are_one_line(tmp_path, data, words):
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(UserError, match=words) as error:
        read_torch_checkpoint(tmp_path / "w.pth")
    text = str(error.value)
    assert "\n" not in text and "secret" not in text and len(text) < 400


def test_a_truncated_file_of_either_kind_is_one_line(tmp_path):
    for legacy in (False, True):
        torch.save(WEIGHTS, tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
        data = (tmp_path / "whole.pth").read_bytes()
        for stop in range(0, len(data), 37):
            (tmp_path / "w.pth").write_bytes(data[:stop])
            with pytest.raises(UserError, match="w.pth is not a file of PyTorch weights"):
                read_torch_checkpoint(tmp_path / "w.pth")
