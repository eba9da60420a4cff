"""What a file is by its first bytes: every kind is named, and no bytes make it fail."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from tvconv_jax.utils.signatures import SIGNATURES, describe, describe_file


def written(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


KINDS = {
    "an empty file": b"",
    "a NumPy archive (.npz)": written(lambda file: np.savez(file, a=np.zeros(3))),
    "a NumPy array (.npy)": written(lambda file: np.save(file, np.zeros(3))),
    "a file that torch.save wrote": written(lambda file: torch.save({"a": torch.zeros(3)}, file)),
    "a file that torch.save wrote (before PyTorch 1.6)": written(
        lambda file: torch.save({"a": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)
    ),
    "a ZIP archive": written(lambda file: zipfile.ZipFile(file, "w").writestr("a.txt", "text")),
    "a pickle of Python": pickle.dumps([1]),
    "a safetensors file": (40).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}',
    "a JSON file": b'{"a": 1}',
    "a text file": "name,label\nÄnne,1\n".encode(),
    "a text file in UTF-16": "text".encode("utf-16"),
    "an XML document": b"\xef\xbb\xbf<?xml version='1.0'?>",
    "a file of zeros": bytes(600),
    "a tar archive": bytes(257) + b"ustar\0",
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3",
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_called_what_it_is(name, tmp_path):
    assert describe(KINDS[name]) == name
    (tmp_path / "file").write_bytes(KINDS[name])
    assert describe_file(tmp_path / "file") == name


def test_no_bytes_make_it_fail_and_what_is_unknown_has_no_name(tmp_path):
    for data in (*KINDS.values(), *(start for start, _ in SIGNATURES)):
        for stop in range(min(len(data), 600)):  # truncated anywhere
            name = describe(data[:stop])
            assert name is None or (name and "\n" not in name)
    for byte in range(256):
        describe(bytes([byte]))
    assert describe(b"\x01\x02\x03\xfe") is None
    assert describe_file(tmp_path) is None and describe_file(tmp_path / "none") is None
