"""One entry point for all commands, names of configs, and what runs without optional packages."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tvconv_jax import __main__ as entry
from tvconv_jax.tasks.command import _with_config_flag, config_of
from tvconv_jax.utils import extras, launch
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.shipped import SWEEPS, find_config, shipped_folder

ROOT = Path(__file__).parent.parent
OPTIONAL = sorted({module for modules in extras.EXTRAS.values() for module in modules})
# Stands for an environment without optional packages: this package's modules find none of them. Flax's find theirs.
WITHOUT = f"""
import builtins, importlib.util, sys
found, find = builtins.__import__, importlib.util.find_spec
def without(name, space=None, *rest, **more):
    if name.split(".")[0] in {OPTIONAL} and (space or {{}}).get("__name__", "").startswith(("tvconv_jax", "__main__")):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return found(name, space, *rest, **more)
builtins.__import__ = without
importlib.util.find_spec = lambda name, package=None: None if name in {OPTIONAL} else find(name, package)
"""
ROOMS = ("utils", "ops", "nn", "nnx", "models", "losses", "metrics", "convert")
BASE = """
import pkgutil, jax, jax.numpy as jnp, tvconv_jax
for module in pkgutil.walk_packages(tvconv_jax.__path__, "tvconv_jax."):
    if module.name.split(".")[1] in {rooms}:
        importlib.import_module(module.name)
layer, x = tvconv_jax.TVConv(hidden_channels=2), jnp.ones((1, 4, 4, 2))
variables = layer.init(jax.random.key(0), x)
tvconv_jax.freeze(layer, variables)(x)
model = tvconv_jax.create_model("mobilenetv2", width=0.1, stages=(1,))
images = jnp.ones((1, 24, 24, 3))
shapes = jax.eval_shape(model.init, jax.random.key(0), images)
from tvconv_jax.metrics.complexity import count
print(count(model, (1, 24, 24, 3)).macs)
from tvconv_jax import *
try:
    load_model("runs/a")
except Exception as error:
    print(error)
"""


def play(code, *arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT + code, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_the_layers_need_jax_flax_and_numpy_alone():
    done = play(BASE.format(rooms=ROOMS))
    assert done.returncode == 0, done.stderr
    macs, error = done.stdout.splitlines()
    assert int(macs) > 0
    assert error.endswith("; load_model needs them: pip install 'tvconv_jax[train]'.")


def needed_by(module):
    return next((extra for name, extra in extras.NEEDED.items() if f"{module}.".startswith(f"{name}.")), None)


@pytest.mark.parametrize("module", sorted(filter(needed_by, {command.module for command in entry.COMMANDS.values()})))
def test_a_command_without_its_packages_says_so_at_once(module):
    # As `python -m` imports the package.
    code = f"sys.orig_argv, sys.argv = ['python', '-m', {module!r}], ['-m']\nimport tvconv_jax"
    done = play(code)
    assert done.returncode == 2, done.stderr
    line = rf"error: absl, array_record, etils and \d+ more are not installed; python -m {module} needs them: "
    assert re.fullmatch(rf"{line}pip install 'tvconv_jax\[{needed_by(module)}\]'\.\n", done.stderr)


def test_the_entry_point_says_which_extra_is_missing_and_lists_commands_without_any():
    run = "\nimport tvconv_jax.__main__ as entry; entry.main()"
    done = play(run, "verify", "model.onnx", "a.png", "b.png")
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: PIL is not installed; python -m tvconv_jax verify needs it: pip install 'tvconv_jax[align]'.\n"
    )
    done = play(run, "data", "inspect", "faces")
    assert done.returncode == 2 and done.stderr.endswith(
        "not installed; python -m tvconv_jax data needs them: pip install 'tvconv_jax[data]'.\n"
    )
    assert done.stderr.count("\n") == 1
    done = play(run)
    assert done.returncode == 0 and "\n  launch " in done.stdout


def test_extras_name_the_modules_of_their_distributions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    modules = packages_distributions()
    for extra in ("data", "train", "export", "torch"):
        needed = project["optional-dependencies"][extra]
        names = {re.split(r"[\[><=]", name)[0] for name in needed}
        inner = {"data": set(extras.EXTRAS["data"])} if "tvconv_jax[data]" in needed else {}
        names -= {"tvconv_jax"}
        found = {name for module in extras.EXTRAS[extra] for name in modules.get(module, ())}
        found -= {name for module in inner.get("data", ()) for name in modules.get(module, ())}
        plain = lambda names: {name.lower().replace("_", "-") for name in names}  # noqa: E731
        assert plain(names) <= plain(found), extra


def test_every_command_is_in_the_table():
    inner = (
        "preview",
        "config_page",
        "tether",
        "worker",
    )  # draw an image and write a page of the docs; parts of others
    modules = {command.module for command in entry.COMMANDS.values()}
    for path in (ROOT / "tvconv_jax").rglob("*.py"):
        if 'if __name__ == "__main__"' in path.read_text() and path.stem not in inner:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            assert {name, f"tvconv_jax.{path.stem}"} & (modules | {"tvconv_jax"}), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exprot", "there is no command 'exprot'; did you mean export"),
        ("face_mb01", "it is a config: python -m tvconv_jax train face_mb01"),
        ("qqqq", "there are: train, eval, plan, config,"),
    ],
)
def test_an_unknown_command_names_near_ones(name, words):
    with pytest.raises(UserError, match=words):
        entry._find(name)


def test_configs_are_found_by_name_first_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = shipped_folder("configs") / "face_mb01.py"
    for name in ("face_mb01", "face_mb01.py", "configs/face_mb01.py", "./configs/face_mb01.py", str(shipped)):
        assert find_config(name) == shipped
    for name in ("table1", "configs/sweeps/table1.py", "sweeps/table1"):
        assert find_config(name, SWEEPS) == shipped_folder(SWEEPS) / "table1.py"
    assert config_of(["--config=face_mb01:data=folder,batch_size=7"]).data.batch_size == 7
    assert config_of(["--config", "odoc"]).task == "segmentation"
    (tmp_path / "face_mb01").write_text("not a config")
    assert find_config("face_mb01") == shipped
    (tmp_path / "mine").write_text("a config")
    assert find_config("mine") == Path("mine")
    own = tmp_path / "configs/face_mb01.py"
    own.parent.mkdir()
    own.write_text(shipped.read_text())
    for name in ("face_mb01", "configs/face_mb01.py"):
        assert find_config(name) == Path("configs/face_mb01.py")
    for name in ("face_mb99", "elsewhere/face_mb01.py", "configs"):
        with pytest.raises(UserError, match=f"^there is no config {name}; there are: .*face_mb01, face_mb02, .*, or "):
            find_config(name)


HELP = "import sys, tvconv_jax.__main__ as entry; sys.argv = ['bin/tvconv-jax', *sys.argv[1:]]; entry.main()"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", "--config: Name or file of a config, with arguments"),
        ("plan", "--workdir: Folder of the run"),
        ("table2", "--out: Folder of the runs. Default: runs/table2."),
        ("data", "tvconv-jax data inspect PATH "),
        ("benchmark", "usage: tvconv-jax benchmark "),
        ("predict", "usage: tvconv-jax predict "),
        ("verify", "usage: tvconv-jax verify "),
        ("launch pi", "usage: tvconv-jax launch pi HOST DIR "),
    ],
)
def test_help_names_the_command_as_it_was_called_and_lists_its_flags(command, words):
    done = subprocess.run(
        [sys.executable, "-c", HELP, *command.split(), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and not done.stderr
    assert words in " ".join(done.stdout.split()) + " "
    assert (
        f"tvconv-jax {command} " in done.stdout
        and f"python -m tvconv_jax.{command} " not in done.stdout.partition("ARTIFACT")[0]
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a --workdir=b", "--config=a --workdir=b"),
        ("--workdir b a:c=1", "--workdir b --config=a:c=1"),
        ("--mode=plan a b", "--mode=plan --config=a b"),
        ("--config=a b", "--config=a b"),
        ("--config a b", "--config a b"),
        ("--workdir b", "--workdir b"),
    ],
)
def test_the_first_word_that_is_no_flag_is_the_config(given, expected):
    assert _with_config_flag(given.split()) == expected.split()


def test_launch_lists_prints_and_refuses(tmp_path, monkeypatch, capsys, refusal):
    monkeypatch.chdir(tmp_path)
    launch.main([])
    listed = capsys.readouterr().out
    names = {path.stem for path in (ROOT / "launch").iterdir()} - {"artifacts"}
    assert names == set(launch.list_scripts()) and all(f"\n{name} " in listed for name in names)
    launch.main(["gke_jobset.yaml", "--print"])
    assert "kind: JobSet" in capsys.readouterr().out
    (tmp_path / "there.sh").write_text("mine")
    for arguments, words in [
        (["gke_jobset"], "is a manifest; --print shows it"),
        (["tpu_pod", "--out"], "--out needs the name of one file"),
        (["tpu_pod", "--out=there.sh"], "there.sh exists and is left as it is"),
        (["pi", "--out=pi.sh"], "pi.sh reads files beside it"),
    ]:
        assert words in refusal(launch.main, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["there.sh"]
    assert (tmp_path / "there.sh").read_text() == "mine"
