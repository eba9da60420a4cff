"""docs/security.md: a crafted file of every format of its table runs nothing, and ends in one line."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from PIL import Image
from test_edge import write_onnx, write_torch
from test_edge_safety import write as write_zip

from tvconv_jax.bench.gpu import command as bench_gpu
from tvconv_jax.bench.gpu.face_files import read_faces
from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.data.classes import find_classes
from tvconv_jax.data.decoder import ImageError, pixels
from tvconv_jax.data.formats.bin_file import read_bin
from tvconv_jax.data.formats.record_faces import RecordFaces, pack
from tvconv_jax.data.formats.recordio import RecordWriter
from tvconv_jax.data.formats.tfds_faces import TfdsFaces, write_tfds
from tvconv_jax.data.mask_classes import read_classes
from tvconv_jax.data.sets import open_faces
from tvconv_jax.data.source import Record
from tvconv_jax.data.tools.alignment import align
from tvconv_jax.data.tools.held_out import open_held_out
from tvconv_jax.edge import benchmark, predict, verify
from tvconv_jax.report.__main__ import remake
from tvconv_jax.tasks.finetune import read_checkpoint
from tvconv_jax.tasks.saved_config import check_workdir, read_config
from tvconv_jax.utils.errors import UserError

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
MARKER = "pwned"  # whatever is executed makes a folder of this name


class Evil:
    def __reduce__(self):
        return os.mkdir, (MARKER,)


PICKLE = pickle.dumps(Evil())


def saved(**options):
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1), "b": Evil()}, file, **options)
    return file.getvalue()


def put(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def records(folder, index=None):
    with RecordWriter(folder / "a.rec") as writer:
        for key in range(3):
            writer.write(key, pack(0.0, key, b"\xff\xd8"))
    if index is not None:
        put(folder, "a.idx", index)
    return folder / "a.rec"


def tfds_folder(folder):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return write_tfds(folder / "crafted", [Record(image=file.getvalue(), label=0, name="a")], ["a"])


def rec(folder):
    yield lambda: RecordFaces(put(folder, "page.rec", b"<html>"))
    yield lambda: RecordFaces(put(folder, "pickle.rec", PICKLE))
    yield lambda: RecordFaces(put(folder, "long.rec", b"\x0a\x23\xd7\xce\xff\xff\xff\x1f"))


def idx(folder):
    for text in (b"0\t99999999\n", b"0\t-8\n", b"\xff\xfe", PICKLE, b"0\t2\n"):
        yield lambda text=text: (shutil.rmtree(folder), folder.mkdir(), set_aside(RecordFaces(records(folder, text))))


def set_aside(faces):
    """An index that does not fit is not used: then its note is the one line."""
    assert len(faces) == 3 and faces.note
    raise UserError(faces.note)


def lists(folder):
    yield lambda: open_held_out(put(folder, "a_pair.txt", PICKLE))[0]
    yield lambda: opened(open_held_out(put(folder, "b_pair.txt", b"\0\0\0")))
    yield lambda: (records(folder), put(folder, "a.lst", PICKLE), opened(open_faces(str(folder / "a.rec"))))
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    for data in (PICKLE, b"a.png\t../a.png", b"\0\0\0"):
        yield lambda data=data: align(folder, put(folder, "landmarks.txt", data), folder / "out")
        yield lambda data=data: verify.landmarks_of(folder / "a.png", [put(folder, "landmarks.txt", data)])


def opened(_):
    """A helper file that is not what it should be may be passed over: then this is the one line."""
    raise UserError("nothing of it was used")


def bins(folder):
    for data in (
        PICKLE,
        pickle.dumps(([Evil(), b""], [True])),
        b"cos\nmkdir\n(S'pwned'\ntR.",
        b"\x80\x02]r\xff\xff\xff\x7f.",
    ):
        yield lambda data=data: read_bin(put(folder, "a.bin", data))


def csvs(folder):
    for data in (
        PICKLE,
        b"path,class\n/etc/passwd,=cmd|' /C calc'!A0\n",
        b"path,class\n" + b'"' * 200_000,
        b"a" * 999_999,
    ):
        config = ConfigDict({"root": str(put(folder, "a.csv", data)), "group_pattern": ""})
        yield lambda config=config: find_classes(config)


def npz(folder):
    artifact = write_onnx(folder)
    np.savez(folder / "check.npz", images=np.array([Evil()], object), embeddings=np.zeros(1))
    yield lambda: benchmark.main([artifact, "--check-only"])
    workdir = folder / "run"
    workdir.mkdir()
    (workdir / "results.json").write_text("{}")
    (workdir / "metrics.jsonl").write_text("")
    (workdir / "config.json").write_text(json.dumps({"task": "face"}))
    np.savez(workdir / "report.npz", a=np.array([Evil()], object))
    yield lambda: remake(workdir)
    np.savez(folder / "faces.npz", data=np.array([Evil()], object))
    yield lambda: read_faces(folder / "faces.npz")
    yield lambda: read_faces(put(folder, "faces.npz", PICKLE))


def pth(folder):
    for data in (saved(), saved(_use_new_zipfile_serialization=False), PICKLE, b"PK\3\4"):
        yield lambda data=data: read_torch_checkpoint(put(folder, "a.ckpt", data))


def safetensors(folder):
    short = b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'
    for header in (b"{" * 9, b"[" * 100_000, short, b'["a"]'):
        data = len(header).to_bytes(8, "little") + header
        yield lambda data=data: read_torch_checkpoint(put(folder, "a.safetensors", data))
        yield lambda data=data: benchmark.main([str(put(folder, "b.safetensors", data)), "--check-only"])
        yield lambda data=data: verify.main([str(put(folder, "b.safetensors", data)), "a.png", "a.png"])
        yield lambda data=data: predict.main([str(put(folder, "b.safetensors", data)), "a.png"])


def pt2(folder):
    for members in (
        {"m/models/model.json": b"{}", "m/data/weights/model.pt": saved()},
        {"serialized_state_dict.pt": saved()},
    ):
        yield lambda members=members: benchmark.main([str(write_zip(folder / "a.pt2", members)), "--check-only"])
    yield lambda: benchmark.main([str(put(folder, "b.pt2", PICKLE)), "--check-only"])


def onnx(folder):
    for data in (PICKLE, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x07\x2a\x05\x6a\x03abc"):
        yield lambda data=data: benchmark.main([str(put(folder, "a.onnx", data)), "--check-only"])
        yield lambda data=data: verify.main([str(put(folder, "a.onnx", data)), "a.png", "a.png"])
        yield lambda data=data: predict.main([str(put(folder, "a.onnx", data)), "a.png", "a.png"])


def code(folder):
    artifact, evil = write_torch(folder), f"import os; os.mkdir({MARKER!r})"
    for name, runtime in (("model.py", "torch"), ("native.py", "native"), ("native.cpp", "native")):
        (folder / "native.cpp").write_text("int main() {}")
        (folder / name).write_text(evil)
        yield lambda runtime=runtime: benchmark.main([artifact, "--check-only", f"--runtime={runtime}"])
        if runtime == "native":
            yield lambda: verify.main([artifact, "a.png", "a.png"])
            yield lambda: predict.main([artifact, "a.png", "a.png"])


def ours(folder):
    for text in ("[" * 100_000, "[]", '{"task": {"__class__": 1', "\0"):
        yield lambda text=text: (put(folder, "config.json", text.encode()), check_workdir(None, folder))
        yield lambda text=text: (put(folder, "config.json", text.encode()), read_config(folder))


def class_names(folder):
    for text in (b"[" * 100_000, b"\xff\x00", b'{"a": {"__class__": 1}, "b": 2}', b'{"a": 0, "b": 1e999}'):
        yield lambda text=text: read_classes(put(folder, "classes.json", text))


def gpu_figures(folder):
    for text in (
        b"[" * 100_000,
        b"\xff\x00\n{}",
        b'{"what": "copy", "precision": {"__class__": 1}, "gb_per_s": "x"}',
        b"1\n{}",
    ):
        yield lambda text=text: bench_gpu.main([f"--page={put(folder, 'a.jsonl', text)}"])


def tfds(folder):
    found = tfds_folder(folder)
    (folder / "payload.py").write_text(f"import os; os.mkdir({MARKER!r})")
    sys.path.insert(0, str(folder))
    for data in ({"type": "payload.X", "content": {}}, {"pythonClassName": "payload.X", "text": {}}):
        yield lambda data=data: TfdsFaces(put(found, "features.json", json.dumps(data).encode()).parent)
    sys.path.remove(str(folder))


def orbax(folder):
    state = folder / "checkpoints" / "last" / "1" / "state"
    state.mkdir(parents=True)
    for name, data in (("_METADATA", PICKLE), ("manifest.ocdbt", PICKLE), ("_sharding", b"[" * 100_000)):
        put(state, name, data)
        digest = hashlib.sha256(b"another").hexdigest()
        put(state, "checksums.json", json.dumps({name: [len(data), digest]}).encode())
        yield lambda: read_checkpoint(folder)


def images(folder):
    for data in (b"\xff\xd8\xff\xe0" + PICKLE, b"\x89PNG\r\n\x1a\n" + bytes(99), b"<svg onload='x'/>", PICKLE):
        yield lambda data=data: pixels(data)
        for main in (predict.main, verify.main):
            yield lambda data=data, main=main: main([write_onnx(folder), *[str(put(folder, "a.png", data))] * 2])


CRAFTED = {
    ".rec": rec,
    ".idx": idx,
    ".lst, pair lists, lists of landmarks": lists,
    ".csv of a classification set": csvs,
    ".bin": bins,
    ".npz (check.npz, report.npz, maps, faces of bench gpu)": npz,
    ".pth, .ckpt": pth,
    ".safetensors": safetensors,
    ".pt2": pt2,
    ".onnx": onnx,
    "model.py, native.py, native.cpp beside an artifact": code,
    ".json of ours (config.json, results.json, sweep.json, ...)": ours,
    "bench_gpu.jsonl": gpu_figures,
    "classes.json of masks": class_names,
    "TFDS folders": tfds,
    "Orbax folders (checkpoints/)": orbax,
    "images": images,
}
BY_DESIGN = {"--config=FILE.py, files of configs/sweeps"}


def table():
    """What the page says of running code, by format."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {cells[0].strip().replace("`", ""): cells[2].strip() for cells in rows[1:]}


def test_the_page_names_every_format_that_is_tried_and_no_other():
    found = table()
    assert {name for name, runs in found.items() if not runs.startswith("**yes")} == CRAFTED.keys()
    assert {name for name, runs in found.items() if runs.startswith("**yes")} == BY_DESIGN


@pytest.mark.parametrize("name", table())
def test_a_crafted_file_runs_nothing_and_ends_in_one_line(name, tmp_path, monkeypatch, capsys):
    if name in BY_DESIGN:
        return
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    tried = 0
    for number, attempt in enumerate(CRAFTED[name](folder)):
        with pytest.raises((UserError, SystemExit, ImageError, verify.Mistake)) as error:
            attempt()
        said = capsys.readouterr().err if isinstance(error.value, SystemExit) else str(error.value)
        if isinstance(error.value, SystemExit):
            assert error.value.code == 2, (number, said)
        assert "\n" not in said.strip() and said.strip() and not re.search("Traceback|opcode", said), (number, said)
        tried += 1
    assert tried > 1 and not (tmp_path / MARKER).exists() and "payload" not in sys.modules
