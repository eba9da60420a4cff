"""JSON and NumPy files that others may have written: one kind of error for whatever is wrong, and no pickle."""

import io
import os
import zipfile

import numpy as np
import pytest

from tvconv_jax.utils import files
from tvconv_jax.utils.files import parse_json, read_arrays


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_json_of_any_depth_is_read_or_refused():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, '{"a":' * 100_000, "", "nan?", b"\xff"):
        with pytest.raises(ValueError):
            parse_json(text)


def packed(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_arrays_are_read_or_refused_and_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    path.write_bytes(packed(a=np.arange(3)))
    assert read_arrays(path)["a"].tolist() == [0, 1, 2]
    truncated, damaged = packed(a=np.zeros(99))[:-9], bytearray(packed(a=np.zeros(99)))
    damaged[200] ^= 255
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.npy", b"no array")
    for data in (packed(a=np.array([Evil()], object)), truncated, bytes(damaged), b"", b"text", other.getvalue()):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not an .npz"):
            read_arrays(path)
    path.write_bytes(packed(a=np.zeros(1000)))
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="is not an .npz"):
        read_arrays(path)
    with pytest.raises(OSError):
        read_arrays(tmp_path / "none.npz")
    assert not (tmp_path / "pwned").exists()
