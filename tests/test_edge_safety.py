"""The benchmark of exported models runs no code that an exporter did not write, in whatever file it stands."""

import hashlib
import io
import json
import os
import py_compile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_edge import failure, metadata, write_check, write_onnx, write_torch

from tvconv_jax.edge import benchmark
from tvconv_jax.export.native import native
from tvconv_jax.export.torch import model as torch_model

PACKAGED = {
    "model.py": Path(torch_model.__file__),
    "native.py": Path(native.__file__),
    "native.cpp": Path(native.__file__).with_name("native.cpp"),
}


class Evil:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def members():
    """What torch.export.save writes, by name."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.ones(4, 3))

        def forward(self, images):
            n, c, h, w = images.shape
            return images.view(n, c, 2, h // 2, w).clamp(min=0).mean((2, 3, 4)) @ self.weights.T

    batch, file = {"images": {0: torch.export.Dim("batch", min=1)}}, io.BytesIO()
    program = torch.export.export(Model().eval(), (torch.zeros(2, 3, 6, 6),), dynamic_shapes=batch)
    torch.export.save(program, file, extra_files={"tvconv_jax.json": metadata()})
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def pwned(tmp_path, monkeypatch):
    """The path that whatever is executed makes."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "pwned"
    assert not (tmp_path / "pwned").exists()


def write(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def with_program(members, change):
    name = next(name for name in members if name.endswith("models/model.json"))
    program = json.loads(members[name])
    change(program)
    return {**members, name: json.dumps(program).encode()}


def root(members):
    return next(iter(members)).partition("/")[0]


def test_what_the_exporter_writes_is_run_without_its_samples(members, pwned):
    name = f"{root(members)}/data/sample_inputs/model.pt"
    path = write(pwned.with_name("a.pt2"), {**members, name: saved({"a": Evil(pwned)})})
    images = np.ones((8, 3, 6, 6), np.float32)
    write_check(pwned.parent, images, embeddings=np.full((8, 4), 3, np.float32))
    benchmark.main([str(path), "--check-only", "--threads=1"])


PYTHON = "__import__('os').mkdir('pwned')"


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["graph_module"]["graph"]["tensor_values"]["images"]["sizes"][0]["as_expr"].update(expr_str=PYTHON),
        lambda p: p["graph_module"]["graph"]["sym_int_values"].update(s1={"as_expr": {"expr_str": "9**9**9**9**9"}}),
        lambda p: p.update(guards_code=[PYTHON]),
        lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="torch.os.mkdir"),
        lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="torch.ops.load_library"),
        lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="torch.ops.aten.from_file.default"),
        lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="_operator.methodcaller"),
        lambda p: p["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(name=f"x={PYTHON}"),
        lambda p: p["graph_module"]["graph"]["tensor_values"].update({f"x={PYTHON}": {}}),
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(in_spec='[1, {"type": "os.mkdir"}]'),
        lambda p: p["graph_module"]["graph"]["custom_obj_values"].update(x={"as_custom_obj": {"name": "a b"}}),
    ],
)
def test_a_program_that_holds_python_is_refused(members, pwned, change, capsys):
    path = write(pwned.with_name("a.pt2"), with_program(members, change))
    code, line = failure(capsys, path, "--check-only")
    assert code == 2 and "can run code" in line and "--run-code" in line


@pytest.mark.parametrize(
    "name",
    [
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/aotinductor/model/model.so",
        "data/weights/../../../etc/weight_0",
        "constants.pkl",
        "code/__torch__.py",
        "serialized_exported_program.json",
    ],
)
def test_members_that_pytorch_unpickles_or_loads_are_refused(members, pwned, name, capsys):
    path = write(pwned.with_name("a.pt2"), {**members, f"{root(members)}/{name}": saved(Evil(pwned))})
    code, line = failure(capsys, path, "--check-only")
    assert code == 2 and name in line and "can run code" in line


def test_pickled_weights_doubles_bombs_and_legacy_archives_are_refused(members, pwned, capsys):
    top, path = root(members), pwned.with_name("a.pt2")
    name = f"{top}/data/weights/model_weights_config.json"
    pickled = members[name].replace(b'"use_pickle": false', b'"use_pickle": true')
    write(path, {**members, name: pickled, f"{top}/data/weights/weight_0": saved(Evil(pwned))})
    assert "holds a pickle" in failure(capsys, path, "--check-only")[1]
    write(path, {**members, f"{top.upper()}/DATA/SAMPLE_INPUTS/MODEL.PT": saved(Evil(pwned))})
    assert failure(capsys, path, "--check-only")[0] == 2
    write(path, {**members, "other/data/sample_inputs/model.pt": saved(Evil(pwned))})
    assert "holds a file twice" in failure(capsys, path, "--check-only")[1]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{top}/data/weights/weight_0", bytes(10**7))
    assert "is compressed or damaged" in failure(capsys, path, "--check-only")[1]
    write(path, {"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": saved(Evil(pwned))})
    assert failure(capsys, path, "--check-only")[0] == 2


@pytest.mark.parametrize("name", PACKAGED)
def test_the_code_that_exports_write_today_is_known(name):
    """A copied benchmark has no package to compare with: add the new digest to KNOWN_CODE, and keep the old ones."""
    assert hashlib.sha256(PACKAGED[name].read_bytes()).hexdigest() in benchmark.KNOWN_CODE[name]


@pytest.mark.parametrize(("name", "changed"), [("model.py", False), *((name, True) for name in PACKAGED)])
def test_code_beside_an_artifact_is_run_only_if_an_exporter_wrote_it(pwned, name, changed, capsys):
    artifact = Path(write_torch(pwned.parent))
    for each, file in PACKAGED.items():
        artifact.with_name(each).write_bytes(file.read_bytes())
    code = artifact.with_name(name)
    if changed:
        code.write_text(f"{code.read_text()}\nimport os; os.mkdir({str(pwned)!r})")
    else:  # Python would take this file for model.py's, as it says it was compiled from one of that size and time
        other = pwned.with_name("other.py")
        other.write_text(f"import os; os.mkdir({str(pwned)!r})".ljust(code.stat().st_size))
        os.utime(other, ns=(0, code.stat().st_mtime_ns))
        (pwned.parent / "__pycache__").mkdir()
        py_compile.compile(str(other), cfile=__import__("importlib.util").util.cache_from_source(str(code)))
    runtime = "torch" if name == "model.py" else "native"
    status, line = failure(capsys, artifact, "--check-only", f"--runtime={runtime}")
    assert status == 2 and (f"{name} is code" in line) == changed  # the model itself is of another kind


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "weights.bin"])
def test_a_model_that_names_other_files_is_refused(tmp_path, location, capsys):
    path = write_onnx(tmp_path)
    model = onnx.load(path)
    tensor = TensorProto(name="w2", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    plain = model.SerializeToString()
    model.graph.initializer.append(tensor)
    in_graph = model.SerializeToString()
    model.ParseFromString(plain)
    model.graph.node.append(helper.make_node("Constant", [], ["other"], value=tensor))
    for data in (in_graph, model.SerializeToString()):
        Path(path).write_bytes(data)
        code, line = failure(capsys, path, "--check-only")
        assert code == 2 and "keeps weights in other files" in line


def test_images_that_unpack_to_more_than_memory_are_refused(tmp_path, monkeypatch, capsys):
    path = write_onnx(tmp_path)
    monkeypatch.setattr(benchmark, "MAX_BYTES", 1000)
    code, line = failure(capsys, path, "--check-only")
    assert code == 2 and "check.npz is truncated" in line
