"""Commands: output that nobody reads, stops, paths, numbers, and flags that are all read."""

import argparse
import ast
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.tasks import command, saved_config
from tvconv_jax.tasks.saved_config import read_config
from tvconv_jax.training import loop
from tvconv_jax.utils import cli, console, progress
from tvconv_jax.utils.cli import ends_in_one_line
from tvconv_jax.utils.errors import Stopped, UserError, as_line
from tvconv_jax.utils.files import user_path
from tvconv_jax.utils.progress import track

PACKAGE = Path(cli.__file__).parents[1]
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
COMMANDS = {name: text for name, text in SOURCES.items() if 'if __name__ == "__main__"' in text}
# Files that are copied to a device without the package.
ALONE = ("edge/benchmark.py", "edge/predict.py", "edge/verify.py")
# A package whose parts are at hand: a command of it, and one that stands for a slow import.
STUB = """
import importlib.util, os, sys
sys.orig_argv, sys.argv = ["python", "-m", "tvconv_jax.stub"], ["-m"]
folder = {folder!r}
import types
package = types.ModuleType("tvconv_jax")
package.__path__ = [folder]
sys.modules["tvconv_jax"] = package
from tvconv_jax.utils import cli
cli.begin_if_command()
"""


def play(code, *, shell="", **options):
    """Runs code as a command of the package, without the seconds that importing all of it takes."""
    program = [sys.executable, "-c", STUB.format(folder=str(PACKAGE)) + code]
    if shell:
        program = ["bash", "-c", f"set -o pipefail; exec {shell}", *program]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, **options)


MANY = """
for i in range(20000): print("line", i)
print("to the end", file=sys.stderr)
open({file!r}, "w").write("done")
"""


@pytest.mark.parametrize(
    "shell",
    ['"$0" "$@" >&-', '"$0" "$@" >/dev/full', '"$0" "$@" </dev/null >&- 2>&-', '"$0" "$@" > >(head -1)'],
)
def test_output_that_nobody_takes_ends_no_command(tmp_path, shell):
    done = play(MANY.format(file=str(tmp_path / "file")), shell=shell)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "ignored" not in done.stderr
    assert (tmp_path / "file").read_text() == "done"  # and nothing that was printed


def test_what_cannot_be_encoded_is_replaced():
    code = "print('caf\\xe9 \\u2503 \\udcff')"
    done = play(code, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\u2503 \\udcff\n")
    assert play(code, env=os.environ | {"PYTHONIOENCODING": "utf-8"}).stdout == "caf\xe9 \u2503 \\udcff\n"


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.EBADF, errno.ENOSPC, errno.EDQUOT])
def test_a_stream_drops_what_cannot_be_written_and_tries_again(monkeypatch, tmp_path, number):
    write, room = os.write, False

    def refuse(descriptor, content):
        if not room:
            raise OSError(number, os.strerror(number))
        return write(descriptor, content[:3])  # in parts, as a pipe may

    with (tmp_path / "file").open("w") as file:
        stream = console.courteous(file.fileno(), file, "<file>")
        with monkeypatch.context() as context:
            context.setattr(os, "write", refuse)
            print("lost", file=stream, flush=True)
            room = True
            print("kept", file=stream, flush=True)
    assert (tmp_path / "file").read_text() == "kept\n"


INTERRUPTED = """
import types
class Finder:
    def find_spec(self, name, *_):
        if name == "slow": {action}
sys.meta_path.insert(0, Finder())
import slow
"""


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("raise KeyboardInterrupt", 130),
        ("import signal; signal.raise_signal(signal.SIGINT)", 130),
        ("import signal; signal.raise_signal(signal.SIGTERM)", 75),
        ("import signal; signal.raise_signal(signal.SIGHUP)", 75),
    ],
)
def test_a_command_that_is_stopped_while_it_imports_says_one_line(action, code):
    # whatever the shell that started the tests made of the signals
    reset = lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)]  # noqa: E731
    done = play(INTERRUPTED.format(action=action), preexec_fn=reset)
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.startswith("stopped; ") and done.stderr.count("\n") == 1


DROPPED = """
import gc, signal, time
from tvconv_jax.utils.cli import ends_in_one_line
numbers = [signal.{name}]
def collect(phase, _):
    if numbers:
        signal.raise_signal(numbers.pop())
with ends_in_one_line("nothing was written."):
    gc.callbacks.append(collect)
    gc.collect()
    time.sleep(20)
    print("goes on")
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 75)])
def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(name, code):
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    done = play(DROPPED.format(name=name), preexec_fn=default)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "stopped; nothing was written.\n")


def test_sighup_that_is_ignored_stays_so():
    code = "cli.listen(); import signal; signal.raise_signal(signal.SIGHUP); print('goes on')"
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    assert play(code, preexec_fn=ignore).stdout == "goes on\n"
    default = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731
    code = "from tvconv_jax.utils.cli import ends_in_one_line\nwith ends_in_one_line('nothing was written.'):\n " + code
    done = play(code, preexec_fn=default)
    assert (done.returncode, done.stderr) == (75, "stopped; nothing was written.\n")


@pytest.mark.parametrize(("ignored", "code"), [(False, 75), (True, 0)])
def test_the_loop_hears_sighup_unless_it_is_ignored(ignored, code):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else cli._stop)
    try:
        with loop._stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert (stop.code if stop.is_set() else 0) == code
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("a=1 must be 2."), "error: a=1 must be 2.", 2),
        (KeyboardInterrupt(), "stopped; nothing was written.", 130),
        (Stopped(), "stopped; nothing was written.", 75),
        (OSError(errno.EROFS, "Read-only file system", "/a"), "error: /a: Read-only file system; nothing was", 1),
        (MemoryError("Unable to allocate 9 TiB"), "error: there is not enough memory for this (Unable to", 1),
        (RuntimeError("Unable to initialize backend 'tpu': no (set JAX_PLATFORMS='')"), "error: JAX_PLATFORMS=tpu", 2),
        (RuntimeError("Unknown backend cuda. Available backends are ['cpu']"), "error: JAX_PLATFORMS=tpu finds no", 2),
    ],
)
def test_what_stops_a_command_is_one_line(error, line, code, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(SystemExit) as end, ends_in_one_line("nothing was written."):
        raise error
    said = capsys.readouterr().err
    assert end.value.code == code and said.startswith(line) and said.count("\n") == 1


def test_a_failure_that_would_come_again_does_not_promise_that_the_command_goes_on():
    for error in (OSError(errno.EACCES, "Permission denied", "/a"), MemoryError()):
        assert as_line(error, "the same command goes on.")[0].endswith("goes on once that is mended.")


def test_a_config_without_a_key_is_one_line():
    with pytest.raises(SystemExit) as end, ends_in_one_line("nothing was written."):
        ConfigDict({"task": "face"}).train.on_nonfinite  # noqa: B018
    assert end.value.code == 2
    for fault in (KeyError("train"), AttributeError("train")):  # of ours
        assert as_line(fault, "") is None


def test_a_gpu_that_is_not_there_is_one_line(capsys, monkeypatch):
    def devices():  # as JAX, which skips CUDA where it sees no GPU
        raise AssertionError

    with pytest.raises(AssertionError), ends_in_one_line("nothing was written."):
        raise AssertionError  # of ours: there are devices
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("jax.devices", devices)
    with pytest.raises(SystemExit, match="2"), ends_in_one_line("nothing was written."):
        devices()
    assert "JAX_PLATFORMS=cuda finds no such devices on this machine; unset JAX_PLATFORMS" in capsys.readouterr().err
    with pytest.raises(AssertionError), ends_in_one_line("nothing was written."):
        raise AssertionError("a fault of ours")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def reporter():
    return progress.Reporter(clock=Clock(), threaded=False)


def test_without_a_terminal_a_line_is_said_every_half_minute(reporter, capsys):
    def at(seconds):
        reporter.clock.now = seconds
        reporter.poll()
        return capsys.readouterr().out

    with reporter.doing("at work"):
        assert at(24) == "" and at(25) == "at work, 0:25 so far\n" and at(49) == "" and at(61) != ""
        with reporter.doing(lambda: "step 3/9"):
            assert at(95) == "step 3/9\n" and at(119) == "" and at(125) == "step 3/9\n"
        assert at(185) == "at work, 3:05 so far\n"
    assert at(999) == ""


def test_a_terminal_gets_no_lines(reporter, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with reporter.doing("at work"):
        reporter.clock.now = 40
        reporter.poll()
    assert capsys.readouterr().out == ""


def test_files_that_are_tracked_say_how_many_are_done(reporter, capsys):
    for item in track(range(490_000), total=490_000, text="Checking faces[a]", reporter=reporter):
        if item == 12_000:
            reporter.clock.now = 60
            reporter.poll()
            break
    assert capsys.readouterr().err == "Checking faces[a]: 12,000 of 490,000, 39:50 left\n"


def test_the_thread_ends_with_what_is_going_on():
    watched = progress.Reporter(every=0.0)
    with watched.doing("at work", stream=open(os.devnull, "w")):
        idle = watched._idle
        assert not idle.is_set()
    assert idle.is_set()


def test_a_home_directory_that_is_not_known(monkeypatch, tmp_path):
    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.delenv("TVCONV_JAX_CACHE")
    with pytest.raises(UserError, match="no home directory .* set TVCONV_JAX_CACHE to a folder"):
        cache_dir()
    with pytest.raises(argparse.ArgumentTypeError, match="~/x: no home directory is known"):
        cli.path_argument("~/x")


def test_an_empty_home_directory_is_none(monkeypatch):
    monkeypatch.setenv("HOME", "")
    for text in ("~", "~/x"):
        with pytest.raises(UserError, match="no home directory is known"):  # Python would take /x
            user_path(text)


def test_the_home_directory_stands_for_a_tilde_everywhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TVCONV_JAX_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "cache"
    for parse in (cli.path_argument, cli.output_file, cli.output_folder, cli.target_argument, cli.source_argument):
        assert str(parse("~/a.rec")) == str(tmp_path / "a.rec")
        with pytest.raises(argparse.ArgumentTypeError, match="a path is empty"):
            parse("")
    assert cli.source_argument("tfds:name") == "tfds:name"
    assert cli.target_argument("tfds:~/a") == f"tfds:{tmp_path}/a"
    assert command._PathParser().parse("~/run") == tmp_path / "run"
    with pytest.raises(ValueError, match="a path is empty"):
        command._PathParser().parse("")
    (tmp_path / "c.py").write_text("from ml_collections import ConfigDict\nget_config = lambda _: ConfigDict({'a': 1})")
    assert command.config_of(["--config=~/c.py:x"]).a == 1


def test_what_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    for parse, name, words in (
        (cli.output_file, "no/such/x.png", "there is no folder"),
        (cli.output_file, "file/x.png", "there is no folder"),
        (cli.output_file, "folder", "is a folder; name a file"),
        (cli.output_file, "x" * 300, "cannot be written"),
        (cli.output_folder, "file", "is not a folder"),
        (cli.output_folder, "dangling/a", "is not a folder"),
        (cli.output_folder, "file/a/b", "is not a folder"),
        (cli.target_argument, "file/a.rec", "is not a folder"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=words):
            parse(f"{tmp_path}/{name}")
    assert cli.output_folder(f"{tmp_path}/a/b") == tmp_path / "a/b"
    assert cli.output_file(f"{tmp_path}/file") == tmp_path / "file"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("text", ["-1", "x", "", "1.5", "9" * 30, "\u0663x", "1e3"])
def test_whole_numbers(text):
    assert cli.integer(0)("7") == 7
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 0 to"):
        cli.integer(0)(text)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e999", "x", "0"])
def test_numbers(text):
    assert cli.number(0, 1)("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="must be greater than 0, and finite"):
        cli.number(0, above=True)(text)


def calls(text, name):
    """Every call of a function or method of that name in a source."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [node for node in found if getattr(node.func, "attr", getattr(node.func, "id", "")) == name]


def test_flags_that_do_nothing_are_refused(monkeypatch, refusal):
    from tvconv_jax import main
    from tvconv_jax.bench import __main__ as bench
    from tvconv_jax.metrics import complexity

    for run, arguments in (
        (complexity.main, ["--nonsense"]),
        (bench.main, ["operator", "--width=0.1"]),
        (bench.main, ["operator", "--depth=0.5"]),
        (bench.main, ["segmentation", "--width=0.1"]),
    ):
        assert arguments[-1].partition("=")[0] in refusal(run, *arguments)
    for mode, name in (("train", "device-kind"), ("eval", "devices"), ("train", "identities"), ("plan", "process")):
        with monkeypatch.context() as context, pytest.raises(UserError, match=f"--{name} does nothing with .*{mode}"):
            context.setattr(flags.FLAGS[name], "present", 1)
            command.check_mode(mode, main.READ_BY)


def test_one_function_knows_the_home_directory_and_one_type_parses_paths():
    for name, text in SOURCES.items():
        allowed = name in (
            "utils/files.py",
            "export/native/native.py",
            "edge/predict.py",
        )  # the others are copied to devices
        assert allowed or not (calls(text, "expanduser") or "Path.home()" in text), name
        parsed = re.search(r"type=(pathlib\.)?Path\b|\bPath\((args|options|[A-Z]+\.value)", text)
        assert name in ALONE or not parsed, name


def test_every_command_ends_in_one_line():
    for name, text in COMMANDS.items():
        started = ("utils/tether.py", "bench/gpu/worker.py")  # by a command, not by people
        alone = name in (*ALONE, *started)
        assert alone or calls(text, "ends_in_one_line") or "command.run(main" in text, name


def parameters_of(folder):
    """Names of the parameters of all functions in a folder of the package."""
    trees = [ast.parse(text) for name, text in SOURCES.items() if Path(name).parent == folder]
    functions = [node.args for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {parameter.arg for one in functions for parameter in [*one.args, *one.kwonlyargs]}


def test_every_flag_of_every_command_is_read():
    """A flag that nothing reads would be accepted and do nothing."""
    found = 0
    for name, text in COMMANDS.items():
        for node in [*calls(text, "add_argument"), *calls(text, "add")]:
            names = [value.value for value in node.args if isinstance(value, ast.Constant)]
            names = [text for text in names if isinstance(text, str)][:1]
            if not names or not (names[0].startswith("--") or node.keywords) or names[0] == "--weigh":
                continue
            read = names[0].lstrip("-").replace("-", "_")
            found += 1
            direct = re.search(rf"\b(args|options)\.{read}\b|parse_args\(\w*\)\.{read}\b|\"{read}\"", text)
            named = next((keyword.value.value for keyword in node.keywords if keyword.arg == "dest"), read)
            passed = "**options" in text and named in parameters_of(Path(name).parent)  # handed on
            assert direct or passed, (name, read)
        for flag in re.findall(r"^([A-Z]+) = (?:flags\.DEFINE|command\.define)", text, re.M):
            found += 1
            assert re.search(rf"\b{flag}\.value|\({flag}\b|, {flag}\)", text), (name, flag)
    assert found > 60


OTHERS = [
    {"model": "resnet50"},
    {"model": {"name": ["x"]}},
    {"task": ["face"]},
    {"data": None},
    {"start": 1},
    {"eval": []},
]


@pytest.mark.parametrize("config", OTHERS)
def test_a_config_json_of_another_program_is_one_line(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="not a config of this program.; choose another --workdir"):
        saved_config.check_workdir(ConfigDict({"task": "face"}), tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        read_config(tmp_path)
