"""The scripts that measure on a Raspberry Pi and try artifacts on an emulated one, without either."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "launch"

# A host that is a folder: ssh runs the command there, scp copies into it and out of it.
SSH = """#!/bin/bash
echo "ssh $1" >> "$LOG"
cd "$FAKE_HOME" && exec bash -c "$2"
"""
SCP = """#!/bin/bash
shift  # -q, -rq
echo "scp ${2%:*}" >> "$LOG"
case $2 in
  *:) cp -r "$1" "$FAKE_HOME/" ;;
  *) cp "$FAKE_HOME/${1#*:}" "$2" ;;
esac
"""
# A host's python3, of which `-m venv` makes an environment whose pip says what it is to install.
PYTHON = f"""#!/bin/bash
case $2 in
  venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/made" ;;
  pip) echo "pip ${{*: -2}}" >> "$LOG"; touch installed ;;
  *version_info*) exec "${{HOST_PYTHON:-{sys.executable}}}" "$@" ;;
  *) [ -e installed ] && exec {sys.executable} "$@" ;;
esac
"""
# In the place of the benchmark: tells what it was given and what lies beside it.
BENCHMARK = """
import json, pathlib, sys
files = sorted(str(path) for path in pathlib.Path("models").rglob("*") if path.is_file())
json.dump({"arguments": sys.argv[1:], "files": files}, open("figures.json", "w"))
"""


def run(script, *arguments, **environment):
    return subprocess.run(
        [LAUNCH / script, *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True
    )


@pytest.fixture
def models(tmp_path):
    """A folder of two exported models, as far as the scripts look into them."""
    folder = tmp_path / "exported models"
    for name in ("tvconv", "depthwise"):
        (folder / name).mkdir(parents=True)
        for file in ("model.onnx", "check.npz", "model.safetensors"):
            (folder / name / file).touch()
    return folder


@pytest.fixture
def host(tmp_path):
    """The environment in which ssh and scp reach a folder that plays the host."""
    home, commands = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    commands.mkdir()
    for name, text in (("ssh", SSH), ("scp", SCP), ("python3", PYTHON)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    path = f"{commands}:{os.environ['PATH']}"
    return {"PATH": path, "LOG": str(tmp_path / "log.txt"), "FAKE_HOME": str(home)}


def copied_scripts(tmp_path, monkeypatch):
    """The scripts in a tree whose benchmark is ``BENCHMARK``."""
    tree = tmp_path / "tree"
    (tree / "launch").mkdir(parents=True)
    (tree / "tvconv_jax" / "edge").mkdir(parents=True)
    for script in LAUNCH.glob("*.sh"):
        (tree / "launch" / script.name).write_bytes(script.read_bytes())
        (tree / "launch" / script.name).chmod(0o755)
    (tree / "tvconv_jax" / "edge" / "benchmark.py").write_text(BENCHMARK)
    monkeypatch.setattr(sys.modules[__name__], "LAUNCH", tree / "launch")


def test_pi_copies_runs_and_brings_the_figures_home(tmp_path, models, host, monkeypatch):
    copied_scripts(tmp_path, monkeypatch)
    done = run("pi.sh", "pi@berry", models, "--compare", "--seconds", "5", "--json=it's $HOME", **host)
    assert done.returncode == 0, done.stderr
    figures = json.loads((models / "berry.json").read_text())
    artifacts = ["models/depthwise/model.onnx", "models/tvconv/model.onnx"]
    flags = ["--compare", "--seconds", "5", "--json=it's $HOME", "--json=figures.json"]
    assert figures["arguments"] == artifacts + flags
    assert figures["files"] == [f"models/{n}/{f}" for n in ("depthwise", "tvconv") for f in ("check.npz", "model.onnx")]
    said = Path(host["LOG"]).read_text().splitlines()
    assert "pip numpy onnxruntime==1.20.1" in said
    assert said.count("ssh pi@berry") == 2

    # A second call finds the venv, and leaves no model of the first.
    (models / "tvconv" / "model.onnx").unlink()
    assert run("pi.sh", "pi@berry", models, **host).returncode == 0
    assert Path(host["LOG"]).read_text().count("pip ") == 1
    figures = json.loads((models / "berry.json").read_text())
    assert figures["files"] == ["models/depthwise/check.npz", "models/depthwise/model.onnx"]


@pytest.mark.parametrize(("version", "words"), [("3.8", "has Python 3.8.1, and"), ("", "has no python3, and")])
def test_pi_says_which_python_it_needs_before_anything_is_copied(tmp_path, models, host, version, words):
    said = f'if [ "$1" = --version ]; then echo Python {version}.1; else exit 1; fi' if version else "exit 127"
    (tmp_path / "bin/python3").write_text(f"#!/bin/bash\n{said}\n")
    done = run("pi.sh", "berry", models, **host)
    assert done.returncode == 2 and words in done.stderr and "needs Python 3.9 or later" in done.stderr
    assert done.stderr.count("\n") == 1
    assert Path(host["LOG"]).read_text() == "ssh berry\n" and not list(Path(host["FAKE_HOME"]).iterdir())


def test_pi_takes_the_last_onnxruntime_that_python_39_has(tmp_path, models, host, monkeypatch):
    copied_scripts(tmp_path, monkeypatch)
    old = tmp_path / "old"
    old.write_text(f'#!/bin/bash\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); ${{@: -1}}"\n')
    old.chmod(0o755)
    assert run("pi.sh", "berry", models, **host, HOST_PYTHON=str(old)).returncode == 0
    assert "pip numpy onnxruntime==1.19.2" in Path(host["LOG"]).read_text().splitlines()


@pytest.mark.parametrize("file", ["edge/benchmark.py", "export/native/native.py"])
def test_what_is_copied_is_python_39(file):
    ast.parse((LAUNCH.parent / "tvconv_jax" / file).read_text(), feature_version=(3, 9))


def test_pi_takes_the_native_engine_along(tmp_path, models, host, monkeypatch):
    copied_scripts(tmp_path, monkeypatch)
    for name in ("native.py", "native.cpp"):
        (models / "tvconv" / name).touch()
    (models / ".tvconv-killed").mkdir()  # of an export that was killed
    (models / ".tvconv-killed/model.onnx").touch()
    assert run("pi.sh", "berry", models, "--batch=1", **host).returncode == 0
    figures = json.loads((models / "berry.json").read_text())
    artifacts = ["depthwise/model.onnx", "tvconv/model.onnx", "tvconv/model.safetensors"]
    flags = ["--runtime=onnxruntime,onnxruntime,native", "--batch=1", "--json=figures.json"]
    assert figures["arguments"] == [f"models/{artifact}" for artifact in artifacts] + flags
    beside = ["check.npz", "model.onnx", "model.safetensors", "native.cpp", "native.py"]
    assert figures["files"][2:] == [f"models/tvconv/{name}" for name in beside]


def test_pi_fails_as_the_benchmark_does_and_leaves_no_figures(tmp_path, models, host, monkeypatch):
    copied_scripts(tmp_path, monkeypatch)
    (tmp_path / "tree/tvconv_jax/edge/benchmark.py").write_text("import sys; sys.exit('error: too hot')")
    done = run("pi.sh", "berry", models, **host)
    assert done.returncode == 1 and "error: too hot" in done.stderr
    assert not (models / "berry.json").exists()


def test_pi_dry_run_only_prints(models, host):
    done = run("pi.sh", "berry", models, "--dry-run", "--batch=1", **host)
    assert done.returncode == 0 and not Path(host["LOG"]).exists()
    for expected in (
        "# copied: ./tvconv_jax_benchmark/models/tvconv/model.onnx",
        'else "1.20.1"',
        "benchmark.py models/depthwise/model.onnx models/tvconv/model.onnx --batch=1 --json=figures.json",
        f"scp -q berry:tvconv_jax_benchmark/figures.json {models}/berry.json",
    ):
        assert expected in done.stdout
    assert not (models / "berry.json").exists()


def test_emulation_dry_run_only_prints(tmp_path, models):
    cache = tmp_path / "cache"
    done = run("pi_emulate.sh", models, "--dry-run", TVCONV_JAX_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert not cache.exists()
    last = done.stdout.splitlines()[-1]
    assert "QEMU_CPU=cortex-a72" in last
    artifacts = f"{models}/depthwise/model.onnx {models}/tvconv/model.onnx"
    assert f"benchmark.py --check-only --runtime=onnxruntime,onnxruntime {artifacts}" in last
    assert "APT::Architecture=arm64" in done.stdout and "onnxruntime==1.20.1" in done.stdout


@pytest.fixture
def emulator(tmp_path):
    """The environment of an emulator that says what it is given; nothing is fetched any more."""
    cache = tmp_path / "cache"
    for folder in ("pi/root/usr/bin", "pi/site-1.20.1", "bin"):
        (cache / folder).mkdir(parents=True)
    (cache / "pi/root/usr/bin/python3.11").touch()
    for name, text in (
        ("qemu-aarch64-static", 'echo "$QEMU_CPU $PYTHONPATH $*"; $CXX -march=native "a b"; exit 1'),
        ("aarch64-linux-gnu-g++", 'printf "<%s>" "$@"'),
    ):
        (cache / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (cache / "bin" / name).chmod(0o755)
    # Without the machine's own folders, where a real cross compiler may be.
    for name in ("bash", "dirname", "find", "sort", "mkdir", "ls", "env", "chmod", "sh"):
        (cache / "bin" / name).symlink_to(shutil.which(name))
    return {"TVCONV_JAX_CACHE": str(cache), "PATH": f"{cache}/bin", "PYTHON": sys.executable}


def test_emulation_runs_what_its_cache_holds(models, emulator):
    """The exit code is the benchmark's."""
    cache = emulator["TVCONV_JAX_CACHE"]
    done = run("pi_emulate.sh", models, **emulator)
    assert done.returncode == 1
    assert done.stdout.startswith(
        f"cortex-a72 {cache}/pi/site-1.20.1 -L {cache}/pi/root {cache}/pi/root/usr/bin/python3.11"
    )
    assert done.stdout.splitlines()[0].endswith("tvconv/model.onnx")


def test_emulation_compiles_the_native_engine_here_for_that_core(models, emulator):
    for name in ("native.py", "native.cpp"):
        (models / "tvconv" / name).touch()
    said, compiled = run("pi_emulate.sh", models, **emulator).stdout.splitlines()
    assert said.endswith("tvconv/model.onnx " + str(models / "tvconv" / "model.safetensors"))
    assert "--runtime=onnxruntime,onnxruntime,native" in said and compiled == "<-mcpu=cortex-a72><a b>"
    (Path(emulator["PATH"]) / "aarch64-linux-gnu-g++").unlink()
    done = run("pi_emulate.sh", models, **emulator)
    assert (
        done.stdout.splitlines()[0].endswith("tvconv/model.onnx") and "model.safetensors is not checked" in done.stderr
    )
    for artifact in models.rglob("*.onnx"):
        artifact.unlink()
    done = run("pi_emulate.sh", models, **emulator)
    assert done.returncode == 2 and "there is no aarch64-linux-gnu-g++ for its native engine" in done.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("pi.sh", ["berry"], "1 arguments beside the flags"),
        ("pi.sh", ["berry", "EMPTY", "--seconds"], "--seconds needs a value"),
        ("pi.sh", ["berry", "nowhere"], "nowhere is not a folder"),
        ("pi.sh", ["berry", "EMPTY"], "holds no .onnx file and no native engine"),
        ("pi_emulate.sh", [], "no folder"),
        ("pi_emulate.sh", ["nowhere"], "nowhere is not a folder"),
        ("pi_emulate.sh", ["EMPTY"], "holds no .onnx file and no native engine"),
        ("pi_emulate.sh", ["EMPTY", "EMPTY"], "one folder too many"),
        ("pi_emulate.sh", ["EMPTY", "--fast"], "--fast is unknown"),
        ("pi_emulate.sh", ["UNCHECKED"], "has no check.npz beside it"),
    ],
)
def test_mistakes_are_one_line(tmp_path, host, script, arguments, expected):
    folders = {name: tmp_path / name.lower() for name in ("EMPTY", "UNCHECKED")}
    for folder in folders.values():
        folder.mkdir()
    (folders["UNCHECKED"] / "model.onnx").touch()
    done = run(script, *(folders.get(argument, argument) for argument in arguments), **host)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and expected in done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.glob("*.s*")))
def test_every_script_prints_its_usage_when_asked(script, flag, tmp_path):
    before = ["run", "NAME"] if script == "tpu_pod.sh" else []
    done = subprocess.run(["bash", LAUNCH / script, *before, flag], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    usage, about, *_ = done.stdout.splitlines()
    assert usage.startswith("usage: ") and script in usage and about[0].isupper()
    assert "SBATCH" not in done.stdout and "set -" not in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("local_processes.sh", ["2", "--dry-run", "--", "true", "--workdir=x"]),
        ("pi.sh", ["berry", "MODELS", "--dry-run", "--seconds", "5", "--compare"]),
        ("pi_emulate.sh", ["MODELS", "--dry-run"]),
        ("slurm.sbatch", ["--config=x", "--workdir=y", "--dry-run"]),
        ("tpu_pod.sh", ["run", "NAME", "--dry-run", "--zone=z", "--type=v4-8", "--bucket=b", "--", "--config=x"]),
    ],
)
def test_options_may_come_in_any_order(script, arguments, models, tmp_path):
    """Those before ``--``, which ends the script's own."""
    own = arguments.index("--") if "--" in arguments else len(arguments)
    orders = [arguments, ["--dry-run", *(word for word in arguments[:own] if word != "--dry-run"), *arguments[own:]]]
    if script == "pi.sh":
        orders.append(["--seconds", "5", "--compare", "berry", "--dry-run", "MODELS"])
    outputs = []
    for order in orders:
        words = [str(models) if word == "MODELS" else word for word in order]
        done = subprocess.run(
            ["bash", LAUNCH / script, *words],
            env=os.environ | {"TVCONV_JAX_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(re.sub(r"127.0.0.1:\d+|/tmp/tmp\.\w+", "", done.stdout))
    assert len(set(outputs)) == 1 and outputs[0]
