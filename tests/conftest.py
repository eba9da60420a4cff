"""Settings of every test: the CPU, strict promotion, a cache of its own."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

# Before jax is imported, which reads it once.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests wait for compilation, hardly ever for what is compiled: less optimization saves a quarter of their time. XLA's
# older way to write loops, each program in one piece, saves a third more where much is compiled and little computed;
# jaxlib 0.11 has that way no longer, and ends the process, silently under pytest, at a flag that it does not know.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=1",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
        os.environ.get("XLA_FLAGS", ""),
    ]
)

import jax
import pytest
from absl import flags
from filelock import FileLock
from folders import touch

# Silent broadcasting between ranks and silent mixing of dtypes hide mistakes: here they are errors.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Tracing makes millions of objects that live on; looking for garbage among them takes a tenth of its time.
gc.set_threshold(100_000, 50, 100)

# Grain reads absl flags, which only absl.app parses.
flags.FLAGS.mark_as_parsed()


ROOT = Path(__file__).parent.parent

# Files that take a minute or more, the longest first: begun last, one of them would keep one core alone busy.
LONG = [
    *("test_main", "test_models", "test_segmentation", "test_bench", "test_sweep", "test_frontal", "test_deeplab"),
    *("test_export", "test_operators", "test_mesh", "test_distributed", "test_export_tables", "test_torture"),
    "test_wheel",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """No test writes to the user's cache; what one test draws or compiles, all others read, of other workers too."""
    folder = tmp_path_factory.getbasetemp()
    cache = (folder if worker_id == "master" else folder.parent) / "cache"
    os.environ["TVCONV_JAX_CACHE"] = str(cache)
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))  # as the commands that tests run do
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture
def face_folder(tmp_path: Path) -> Path:
    """A folder of three identities with two files each."""
    for name in ("ann", "bob", "cyd"):
        for i in range(2):
            touch(tmp_path / "faces" / name / f"{i}.jpg", f"{name}{i}".encode())
    return tmp_path / "faces"


@pytest.fixture(scope="session")
def finished(cache_folder: None, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Path, str]:
    """Workdir and output of a run of 24 steps that nobody disturbed; the first worker to look at it trains it."""
    folder = tmp_path_factory.getbasetemp()
    workdir = (folder if worker_id == "master" else folder.parent) / "runs" / "finished"
    printed = workdir.with_suffix(".txt")
    workdir.parent.mkdir(exist_ok=True)
    with FileLock(workdir.with_suffix(".lock")):
        if not printed.exists():
            config = "--config=configs/face_mb01.py:smoke,epochs=6"
            command = [sys.executable, "-m", "tvconv_jax.main", config, f"--workdir={workdir}"]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
            assert result.returncode == 0, result.stderr
            printed.write_text(result.stdout)
    return workdir, printed.read_text()


@pytest.fixture(scope="module")
def barely_optimized() -> Iterator[None]:
    """For files that compile much and compute little: programs compile in half the time and run several times slower.

    Only in this process; commands that tests run are compiled as always.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function of a command's ``main`` and its arguments, which ends in one line of an error and code 2: the line."""

    def run(main: Callable[[list[str]], None], *arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        text = capsys.readouterr().err
        *before, line = text.splitlines()  # progress may stand before it on a busy machine
        assert end.value.code == 2 and line.startswith("error: "), text
        assert not any("rror" in other for other in before), text
        return f"{line}\n"

    return run
