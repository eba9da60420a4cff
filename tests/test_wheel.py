"""The sdist and the wheel: what they hold, and commands of the wheel in an empty folder of a fresh environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tvconv_jax

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"
LAYERS = """
import pathlib, jax, jax.numpy as jnp, tvconv_jax
layer, x = tvconv_jax.TVConv(hidden_channels=2), jnp.ones((1, 4, 4, 2))
variables = layer.init(jax.random.key(0), x)
assert jnp.allclose(tvconv_jax.freeze(layer, variables)(x), layer.apply(variables, x), atol=1e-5)
print(tvconv_jax.__version__, pathlib.Path(tvconv_jax.__file__).parent)
"""


def files_below(folder, to=""):
    """Names of the files of a folder of the checkout, as a wheel has them."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{to}{path.relative_to(ROOT)}" for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    for name in ("tvconv_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)

    def build(kind, where):
        done = subprocess.run([sys.executable, "-c", BUILD.format(kind, str(folder))], cwd=where, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return folder / done.stdout.decode().split()[-1]

    sdist = build("sdist", tree)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return sdist, build("wheel", folder / sdist.name.removesuffix(".tar.gz"))


def test_the_wheel_holds_the_package_its_configs_and_its_launch_scripts(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
        about = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(about).decode())
    package = files_below("tvconv_jax") | files_below("configs", "tvconv_jax/") | files_below("launch", "tvconv_jax/")
    assert names == package
    assert {f"tvconv_jax/{name}" for name in ("py.typed", "report/style.css", "export/native/native.cpp")} < names
    assert modes["tvconv_jax/launch/pi.sh"] & 0o111
    assert metadata["Version"] == tvconv_jax.__version__
    assert {"train", "data", "export", "all"} <= set(metadata.get_all("Provides-Extra"))
    base = [needed for needed in metadata.get_all("Requires-Dist") if "extra ==" not in needed]
    assert sorted(needed.partition(">=")[0] for needed in base) == ["flax", "jax", "numpy"]


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = files_below("tvconv_jax") | files_below("configs") | files_below("launch")
    assert files | {"pyproject.toml", "setup.py", "README.md", "LICENSE"} <= names


@pytest.fixture(scope="module")
def command(built, tmp_path_factory):
    """A function that runs the script of a fresh environment in a folder that was empty."""
    environment, empty = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check"]
    # A checkout on PYTHONPATH would count as installed.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, "--no-deps", "--no-index", built[1]], check=True, env=variables)
    # The packages of the tests' environment, except for its tvconv_jax: an editable install works in its own folder.
    site = python.parent.parent / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (site / "of_the_tests.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    variables["PATH"] = f"{python.parent}:{variables['PATH']}"

    def run(*arguments, code=0):
        words = list(map(str, arguments))
        done = subprocess.run(words, cwd=empty, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    run.folder, run.site = empty, site
    return run


def test_it_says_its_version_and_its_commands(command):
    assert command("tvconv-jax", "--version") == f"{tvconv_jax.__version__}\n"
    assert "\n  train " in command("tvconv-jax")
    assert command("python", "-c", LAYERS).split() == [tvconv_jax.__version__, str(command.site / "tvconv_jax")]
    assert not list(command.folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "error: there is no command 'trian'; did you mean train?\n"),
        (["train", "face_mb99"], "error: there is no config face_mb99; there are: classification, face_mb01, "),
        (["data", "inspekt"], "error: argument COMMAND: invalid choice: 'inspekt' "),
        (["sweep", "table9", "--out=x"], "error: there is no sweep table9; there are: figure10, figure6, "),
        (["launch", "raspberry"], "error: there is no launch script 'raspberry'; there are: cpu_env, gke_jobset, "),
    ],
)
def test_mistakes_are_one_line(command, arguments, line):
    error = command("tvconv-jax", *arguments, code=2)
    assert error.startswith(line) and error.count("\n") == 1
    assert "python -m" not in error


def test_a_model_is_trained_and_exported(command):
    config = ["face_mb01:smoke,epochs=0.5", "--config.seed=1"]
    printed = command("tvconv-jax", "train", "--workdir=runs/a", *config)
    assert f"Everything is in {command.folder / 'runs/a'}" in printed
    command("tvconv-jax", "export", "--workdir=runs/a", "--formats=native", "--out=exported")
    assert (command.folder / "exported/model.safetensors").stat().st_size > 1e5


def test_a_sweep_finds_its_file_and_its_configs(command):
    printed = command("tvconv-jax", "sweep", "table1", "--dry-run", "--seeds=0", "--settings=ShuffleNetV2 x0.5 tvconv")
    assert "-m tvconv_jax.main --config=configs/face_sf05.py:operator=tvconv,recipe=paper,seed=0" in printed


def test_a_folder_of_images_is_inspected(command):
    for name in ("a", "b"):
        (command.folder / "images" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (112, 112, 3), np.uint8)
            Image.fromarray(pixels).save(command.folder / "images" / name / f"{number}.png")
    assert "\n  images      4, " in command("tvconv-jax", "data", "inspect", "images")


def test_launch_scripts_run_and_are_written(command):
    assert "hello\n" == command("tvconv-jax", "launch", "cpu_env", "echo", "hello")
    command("tvconv-jax", "launch", "slurm", "--out=slurm.sbatch")
    assert (command.folder / "slurm.sbatch").read_bytes() == (ROOT / "launch/slurm.sbatch").read_bytes()
    (command.folder / "models").mkdir()
    (command.folder / "models/model.onnx").touch()
    assert "/benchmark.py" in command("tvconv-jax", "launch", "pi", "berry", "models", "--dry-run")
