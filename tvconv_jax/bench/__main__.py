"""Speed of the operators and of a training step, ours and a plain PyTorch baseline's, in one run.

    python -m tvconv_jax.bench operator     forward, and forward+backward, at six shapes of MobileNetV2
    python -m tvconv_jax.bench train        MobileNetV2 x0.1, batch 64: images/s, compile time, memory
    python -m tvconv_jax.bench segmentation DeepLabV3+ with atrous convolutions, 256x256, batch 8
    python -m tvconv_jax.bench              all
    python -m tvconv_jax.bench gpu          on a GPU, all its figures within a given time; its options: gpu --help

Ratios are the baseline's time over ours: above 1, ours is faster. Calls are interleaved, so that a busy machine slows
both, and figures are medians. Both use every core that the process may use (``taskset`` gives them fewer), or
one GPU. On a GPU the next call is launched while the last one runs; there a batch of 512 keeps the chip busy. The
baseline (:mod:`tvconv_jax.bench.torch_baseline`) needs the ``torch`` extra; without it ours are timed alone.
``--baseline=compiled`` lets ``torch.compile`` fuse it. ``--precision=bfloat16`` holds for both sides.
Bandwidths of operators are the bytes that must be moved, every array once, over the time.
"""

import argparse
import functools
import importlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from tvconv_jax.bench import ours
from tvconv_jax.bench.settings import LEARNING_RATE, PRECISIONS, SGD, face_inputs, operator_inputs, segmentation_inputs
from tvconv_jax.bench.timing import Call, Wait, copy_bandwidth, interleaved
from tvconv_jax.edge import benchmark
from tvconv_jax.models.mobilenetv2 import WIDTHS
from tvconv_jax.nn.checks import FIELDS
from tvconv_jax.utils.cli import Parser, ends_in_one_line, image_size, integer, number, output_file
from tvconv_jax.utils.environment import cores, processor
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import announce_overwrite, write_json
from tvconv_jax.utils.tether import tethered

# Grid for 96x96 images, channels, strides: MobileNetV2's widest grids, and one block at each grid below.
SHAPES = ((96, 16, 1), (96, 96, 2), (48, 144, 1), (24, 192, 1), (12, 384, 1), (6, 960, 1))
PASSES = ("forward", "forward+backward")


def load_baseline(mode: str) -> tuple[ModuleType | None, str]:
    """Return the baseline's module on JAX's kind of device, or ``None``, and a line that describes it."""
    try:
        baseline = importlib.import_module("tvconv_jax.bench.torch_baseline")
        return baseline, f"baseline: {baseline.prepare(jax.default_backend(), cores(), mode)}"
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None, "no PyTorch, so ours are timed alone: pip install 'tvconv_jax[torch]' adds the PyTorch baseline"
    except RuntimeError as error:
        return None, f"{error}, so ours are timed alone"


def bench_operator(
    baseline: ModuleType | None, *, batch: int, image_size: int, runs: int, precision: str
) -> list[dict[str, Any]]:
    """Time both operators at the six shapes; print and return a row for each.

    Rows hold ``operator``, ``shape`` (n, h, w, c, strides), and per pass milliseconds, ratio and GB/s.
    """
    rows = []
    for operator in ours.OPERATORS:
        print(f"\n{operator:<18}" + "".join(f"{part:>30}" for part in PASSES))
        shapes = [(batch, grid * image_size // 96, channels, strides) for grid, channels, strides in SHAPES]
        table = [_operator_row(baseline, operator, shape, runs, precision) for shape in shapes]
        if baseline:
            means = (statistics.geometric_mean(row[part]["ratio"] for row in table) for part in PASSES)
            print(f"{'geometric mean':<18}" + "".join(f"{f'{mean:.2f}x':>30}" for mean in means))
        rows += table
    return rows


def _operator_row(
    baseline: ModuleType | None, operator: str, shape: tuple[int, int, int, int], runs: int, precision: str
) -> dict[str, Any]:
    batch, grid, channels, strides = shape
    arrays = operator_inputs(operator, *shape)
    sides = {"ours": (ours, jax.block_until_ready)} | ({"baseline": (baseline, baseline.wait)} if baseline else {})
    calls = {}
    for side, (module, wait) in sides.items():
        found = module.operator_calls(operator, arrays, strides, precision=precision)
        calls |= {(side, part): (call, wait) for part, call in found.items()}
    seconds = interleaved(calls, runs)
    compared = {part: _compare(seconds, part) for part in PASSES}
    # Forward reads input and weights and writes as much as the cotangent is; backward reads all three, writes two.
    x, weights, cotangent = (a.size * jnp.dtype(precision).itemsize for a in arrays)
    moved = {"forward": x + weights + cotangent, "forward+backward": 3 * x + 3 * weights + 2 * cotangent}
    for part, figures in compared.items():
        figures["gb_per_s"] = moved[part] / figures["ours_ms"] / 1e6
    cells = "".join(f"{_cell(compared[part]):>30}" for part in PASSES)
    sizes = [batch, grid, grid, channels, strides]
    print(f"{','.join(map(str, sizes)):<18}{cells}", flush=True)
    return {"operator": operator, "shape": sizes} | compared


def _compare(seconds: dict[tuple[str, str], float], name: str) -> dict[str, float]:
    result = {"ours_ms": 1000 * seconds["ours", name]}
    if theirs := seconds.get(("baseline", name)):
        result |= {"baseline_ms": 1000 * theirs, "ratio": theirs / seconds["ours", name]}
    return result


def _cell(compared: dict[str, float]) -> str:
    bandwidth = f"{compared['gb_per_s']:.0f}"
    if "ratio" not in compared:
        return f"({compared['ours_ms']:.2f}) {bandwidth}"
    return f"{compared['ratio']:.2f}x ({compared['ours_ms']:.2f}, {compared['baseline_ms']:.2f}) {bandwidth}"


def bench_train(
    baseline: ModuleType | None, *, batch: int, image_size: int, runs: int, width: float, depth: float, precision: str
) -> dict[str, dict[str, Any]]:
    """Time the training step of the face task with both operators; print and return the figures of each."""
    model = {"width": width, "depth": depth, "precision": precision}
    calls, results = {}, {}
    for operator in ours.OPERATORS:
        arrays, class_weights = face_inputs(batch, image_size)
        theirs = baseline and baseline.face_trainer(operator, class_weights, arrays, SGD, **model)
        make_ours = functools.partial(ours.face_trainer, operator, class_weights, arrays, **model)
        calls[operator], results[operator] = _start(baseline, theirs, make_ours)
    title = f"MobileNetV2 x{width}{_depth_note(depth)}, {image_size}x{image_size}, batch {batch}, {precision}"
    _time_training(f"{title}, SGD, AM-softmax", calls, results, batch, runs)
    return results


def bench_segmentation(
    baseline: ModuleType | None, *, batch: int, image_size: int, runs: int, depth: float, precision: str
) -> dict[str, Any]:
    """Time the training step of DeepLabV3+ with atrous convolutions; print and return the figures."""
    arrays, theirs, model = segmentation_inputs(batch, image_size), None, {"depth": depth, "precision": precision}
    if baseline:
        from tvconv_jax.data.fundus import to_maps  # late: of all modes, this one alone needs data sets

        deeplab = importlib.import_module("tvconv_jax.bench.torch_baseline_deeplab")
        theirs = deeplab.segmentation_trainer(arrays["image"], to_maps(arrays["mask"]), LEARNING_RATE, **model)
    calls, result = _start(baseline, theirs, functools.partial(ours.segmentation_trainer, arrays, **model))
    size = f"{image_size}x{image_size}, batch {batch}, {precision}"
    title = f"DeepLabV3+{_depth_note(depth)}, atrous convolutions, {size}, Adam"
    _time_training(title, {"atrous": calls}, {"atrous": result}, batch, runs)
    return result


def _start(
    baseline: ModuleType | None, theirs: Any, make_ours: Callable[..., ours.Trainer]
) -> tuple[dict[str, tuple[Call, Wait]], dict[str, Any]]:
    """Take two steps on each side from the same weights; return their calls, first losses and memory."""
    calls, result, state_dict = {}, {}, None
    if theirs:
        state_dict = theirs.state()
        first = float(theirs.step())  # compiles, if the baseline is compiled, and allocates the optimizer's state
        second, result["baseline_memory_bytes"] = baseline.peak_memory(theirs.step)
        result["baseline_losses"] = [first, second]
        calls["baseline"] = theirs.step, baseline.wait
    trainer = make_ours(state_dict=state_dict)
    result |= {"compile_s": trainer.compile_seconds, "temporaries_bytes": trainer.temporaries}
    result["losses"] = [float(trainer.step()), float(trainer.step())]
    calls["ours"] = trainer.step, jax.block_until_ready
    return calls, result


def _time_training(
    title: str, calls: dict[str, dict], results: dict[str, dict[str, Any]], batch: int, runs: int
) -> None:
    """Time the steps of all operators and both sides, interleaved; add the figures to the results and print them."""
    seconds = interleaved({(side, name): call for name in calls for side, call in calls[name].items()}, runs)
    print(f"\nTraining step of {title}")
    for name, result in results.items():
        result |= _compare(seconds, name)
        _print_training(name, result, batch)


def _depth_note(depth: float) -> str:
    return "" if depth == 1 else f" of depth {depth}"


def _print_training(operator: str, result: dict[str, Any], batch: int) -> None:
    speed = f"{1000 * batch / result['ours_ms']:.1f} images/s"
    memory = f"temporaries {result['temporaries_bytes'] / 2**30:.2f} GiB"
    if "ratio" in result:
        speed = f"{result['ratio']:.2f}x  {speed}, PyTorch {1000 * batch / result['baseline_ms']:.1f}"
    if result.get("baseline_memory_bytes"):
        memory += f", PyTorch {result['baseline_memory_bytes'] / 2**30:.2f}"
    print(f"{operator:<10} {speed}; compiled in {result['compile_s']:.1f} s; {memory}")
    if "baseline_losses" in result:
        losses, theirs = (", ".join(f"{loss:.5f}" for loss in result[key]) for key in ("losses", "baseline_losses"))
        print(f"{'':<10} first losses from the same weights: {losses}; PyTorch {theirs}")


def import_seconds() -> tuple[float, float]:
    """Return the seconds of ``import flax.linen`` in a fresh process, and those that ``import tvconv_jax`` adds."""
    code = (
        "import time; a = time.perf_counter(); import flax.linen; b = time.perf_counter(); import tvconv_jax; "
        "print(b - a, time.perf_counter() - b)"
    )
    command = tethered([sys.executable, "-c", code])
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    flax, ours = map(float, out.split())
    return flax, ours


def hardware() -> str:
    """Return a line on the machine: processor or accelerator, cores, versions."""
    device = jax.devices()[0]
    name = processor() if device.platform == "cpu" else device.device_kind
    return f"{name}, {cores()} cores; jax {jax.__version__} ({device.platform}), Python {platform.python_version()}"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["gpu"]:
        importlib.import_module("tvconv_jax.bench.gpu.command").main(argv[1:])
        return
    depth = number(0, FIELDS["depth"].high, above=True)
    renamed = {"--twin": "--baseline"}
    parser = Parser(prog="python -m tvconv_jax.bench", description=__doc__.splitlines()[0], renamed=renamed)
    parser.add_argument("mode", nargs="?", choices=("operator", "train", "segmentation"), help="default: all")
    parser.add_argument("--batch", type=integer(1), help="images: default 32 (operator), 64 (train), 8 (segmentation)")
    parser.add_argument("--runs", type=integer(1), default=7, help="timed rounds of all calls: default 7")
    parser.add_argument("--image-size", type=image_size, help="default 96, 256 (segmentation)")
    parser.add_argument("--width", type=float, choices=WIDTHS, help="MobileNetV2's, in train: default 0.1")
    parser.add_argument("--depth", type=depth, help="of the models, in train, segmentation: default 1")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="of both sides: default float32")
    parser.add_argument("--baseline", default="eager", choices=("eager", "compiled"), help="PyTorch: default eager")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write all figures there")
    args = parser.parse_args(argv)
    for name, modes in (("width", ("train", None)), ("depth", ("train", "segmentation", None))):
        if getattr(args, name) is not None and args.mode not in modes:
            parser.error(f"--{name} does nothing in {args.mode}; leave it out")
    with ends_in_one_line("nothing was written.", mistakes=(UserError, benchmark.Mistake)):
        if args.json:
            announce_overwrite(args.json)
        if args.batch == 1 and args.mode != "operator":
            raise UserError("--batch=1 leaves batch norms one image to average over; take 2, or the mode operator.")
        _run(args)


def _run(args: argparse.Namespace) -> None:
    baseline, about = load_baseline(args.baseline)
    flax_seconds, our_seconds = import_seconds()
    print(f"{hardware()}\n{about}\nmedians of {args.runs} rounds")
    print(f"import flax.linen {flax_seconds:.2f} s, import tvconv_jax {our_seconds:.2f} s more")
    print("ratio: PyTorch's time / ours (milliseconds of ours, of PyTorch's); of operators also GB/s of ours")
    figures: dict[str, Any] = {"hardware": hardware(), "baseline": about, "import_s": our_seconds}
    depth = args.depth or 1.0
    common = {"image_size": args.image_size or 96, "precision": args.precision, "runs": args.runs}
    if args.mode in ("operator", None):
        figures["copy_gb_per_s"] = copy_bandwidth(args.runs) / 1e9
        print(f"a copy moves {figures['copy_gb_per_s']:.0f} GB/s")
        figures["operator"] = bench_operator(baseline, batch=args.batch or 32, **common)
    if args.mode in ("train", None):
        figures["train"] = bench_train(baseline, batch=args.batch or 64, width=args.width or 0.1, depth=depth, **common)
    if args.mode in ("segmentation", None):
        common["image_size"] = args.image_size or 256
        figures["segmentation"] = bench_segmentation(baseline, batch=args.batch or 8, depth=depth, **common)
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
