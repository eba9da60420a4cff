"""Speed of the operators and of a whole training step, ours beside a plain PyTorch twin, in one run.

    python -m tvconv_jax.bench operator     forward, and forward+backward, at six shapes of MobileNetV2
    python -m tvconv_jax.bench train        MobileNetV2 x0.1, batch 64: images per second, compile time, memory
    python -m tvconv_jax.bench segmentation DeepLabV3+ with atrous convolutions, 256x256, batch 8
    python -m tvconv_jax.bench              all

Ratios are the twin's time over ours: above 1, ours is faster. Calls take turns, so that a busy machine slows
both, and figures are medians. Both use every core that the process may use (``taskset`` gives them fewer), or
one GPU, where one call is launched while the one before it runs; there a batch of 512 keeps the chip busy. The
twin (:mod:`tvconv_jax.bench.torch_baseline`) needs the ``torch`` extra; without it ours are timed alone.
``--twin=compiled`` lets ``torch.compile`` fuse it; ``--precision=bfloat16`` computes in it on both sides.
Bandwidths of operators are bytes that must be moved, every array once, over the time.
"""

import argparse
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from tvconv_jax.bench import ours as bench_ours
from tvconv_jax.bench.timing import Call, Wait, copy_bandwidth, interleaved
from tvconv_jax.data.fundus import to_maps
from tvconv_jax.edge import benchmark
from tvconv_jax.models.mobilenetv2 import WIDTHS
from tvconv_jax.nn.checks import FIELDS
from tvconv_jax.tasks.parts import PRECISIONS
from tvconv_jax.utils.cli import Parser, ends_in_one_line, image_size, integer, number, output_file
from tvconv_jax.utils.environment import cores, processor
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.files import write_json
from tvconv_jax.utils.outputs import announce_overwrite
from tvconv_jax.utils.tether import tethered

# Grid for 96x96 images, channels, strides: MobileNetV2's widest grids, and one block at each grid below.
SHAPES = ((96, 16, 1), (96, 96, 2), (48, 144, 1), (24, 192, 1), (12, 384, 1), (6, 960, 1))
PASSES = ("forward", "forward+backward")


def load_twin(mode: str) -> tuple[ModuleType | None, str]:
    """The twin's module on JAX's kind of device, or ``None``; and a line that says so, with ``mode``."""
    try:
        from tvconv_jax.bench import torch_baseline as bench_twin
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None, "no PyTorch, so ours are timed alone: pip install 'tvconv_jax[torch]' adds the twin"
    try:
        return bench_twin, f"twin: {bench_twin.prepare(jax.default_backend(), cores(), mode)}"
    except RuntimeError as error:
        return None, f"{error}, so ours are timed alone"


def bench_operator(
    twin: ModuleType | None, *, batch: int, image_size: int, runs: int, precision: str
) -> list[dict[str, Any]]:
    """Times both operators at the six shapes and prints a line for each.

    Returns:
        One row per operator and shape: ``operator``, ``shape`` (n, h, w, c, strides), and per pass milliseconds,
        ratio and bandwidth.
    """
    rows = []
    for operator in bench_ours.OPERATORS:
        print(f"\n{operator:<18}" + "".join(f"{part:>30}" for part in PASSES))
        shapes = [(batch, grid * image_size // 96, channels, strides) for grid, channels, strides in SHAPES]
        table = [_operator_row(twin, operator, *shape, runs=runs, precision=precision) for shape in shapes]
        if twin:
            means = (statistics.geometric_mean(row[part]["ratio"] for row in table) for part in PASSES)
            print(f"{'geometric mean':<18}" + "".join(f"{f'{mean:.2f}x':>30}" for mean in means))
        rows += table
    return rows


def _operator_row(
    twin: ModuleType | None,
    operator: str,
    batch: int,
    grid: int,
    channels: int,
    strides: int,
    *,
    runs: int,
    precision: str,
) -> dict[str, Any]:
    arrays = bench_ours.operator_inputs(operator, batch, grid, channels, strides)
    ours = bench_ours.operator_calls(operator, arrays, strides, precision=precision)
    calls = {("ours", part): (call, jax.block_until_ready) for part, call in ours.items()}
    if twin:
        theirs = twin.operator_calls(operator, arrays, strides, precision=precision)
        calls |= {("twin", part): (call, twin.wait) for part, call in theirs.items()}
    seconds = interleaved(calls, runs)
    shape = [batch, grid, grid, channels, strides]
    compared = {part: _compared(seconds, part) for part in PASSES}
    # Forward reads input and weights and writes as much as the cotangent is; backward reads all three, writes two.
    x, weights, cotangent = (a.size * jnp.dtype(PRECISIONS[precision]).itemsize for a in arrays)
    moved = {"forward": x + weights + cotangent, "forward+backward": 3 * x + 3 * weights + 2 * cotangent}
    for part, figures in compared.items():
        figures["gb_per_s"] = moved[part] / figures["ours_ms"] / 1e6
    cells = "".join(f"{_cell(compared[part]):>30}" for part in PASSES)
    print(f"{','.join(map(str, shape)):<18}{cells}", flush=True)
    return {"operator": operator, "shape": shape} | compared


def _compared(seconds: dict[Any, float], *name: str) -> dict[str, float]:
    ours, theirs = (seconds.get((side, *name)) for side in ("ours", "twin"))
    result = {"ours_ms": 1000 * ours}
    return result | {"twin_ms": 1000 * theirs, "ratio": theirs / ours} if theirs else result


def _cell(compared: dict[str, float]) -> str:
    bandwidth = f"{compared['gb_per_s']:.0f}"
    if "ratio" not in compared:
        return f"({compared['ours_ms']:.2f}) {bandwidth}"
    return f"{compared['ratio']:.2f}x ({compared['ours_ms']:.2f}, {compared['twin_ms']:.2f}) {bandwidth}"


def bench_train(
    twin: ModuleType | None, *, batch: int, image_size: int, runs: int, width: float, depth: float, precision: str
) -> dict[str, dict[str, Any]]:
    """Times the training step with both operators, all taking turns, and prints what came out.

    Returns:
        For each operator images per second, ratio, compile seconds, memory, and the first losses of each side.
    """
    calls, results, model = {}, {}, {"width": width, "depth": depth, "precision": precision}
    for operator in bench_ours.OPERATORS:
        arrays, class_weights = bench_ours.train_inputs(batch, image_size)
        results[operator] = result = {}
        state_dict = None
        if twin:
            theirs = twin.face_trainer(operator, class_weights, arrays, bench_ours.SGD, **model)
            state_dict = theirs.state()
            calls["twin", operator] = _first_losses_of_twin(twin, theirs, result)
        ours = bench_ours.face_trainer(operator, class_weights, arrays, **model, state_dict=state_dict)
        calls["ours", operator] = _first_losses(ours, result)
    seconds = interleaved(calls, runs)
    for operator, result in results.items():
        result |= _compared(seconds, operator)
    title = f"MobileNetV2 x{width}{_of_depth(depth)}, {image_size}x{image_size}, batch {batch}, {precision}"
    print(f"\nTraining step of {title}, SGD, AM-softmax")
    for operator, result in results.items():
        _print_training(operator, result, batch)
    return results


def _first_losses(ours: bench_ours.Trainer, result: dict[str, Any]) -> tuple[Call, Wait]:
    result |= {"compile_s": ours.compile_seconds, "temporaries_bytes": ours.temporaries}
    result["losses"] = [float(ours.step()), float(ours.step())]
    return ours.step, jax.block_until_ready


def _first_losses_of_twin(twin: ModuleType, theirs: Any, result: dict[str, Any]) -> tuple[Call, Wait]:
    first = float(theirs.step())  # compiles, if the twin is compiled, and makes what the optimizer keeps
    second, result["twin_memory_bytes"] = twin.peak_memory(theirs.step)
    result["twin_losses"] = [first, second]
    return theirs.step, twin.wait


def bench_segmentation(
    twin: ModuleType | None, *, batch: int, image_size: int, runs: int, depth: float, precision: str
) -> dict[str, Any]:
    """Times the training step of DeepLabV3+ with atrous convolutions and prints what came out.

    Returns:
        As one entry of :func:`bench_train`.
    """
    arrays, calls, result, state_dict = bench_ours.segmentation_inputs(batch, image_size), {}, {}, None
    model = {"depth": depth, "precision": precision}
    if twin:
        from tvconv_jax.bench import torch_baseline_deeplab as bench_twin_deeplab

        maps = to_maps(arrays["mask"])
        theirs = bench_twin_deeplab.segmentation_trainer(arrays["image"], maps, bench_ours.LEARNING_RATE, **model)
        state_dict = theirs.state()
        calls["twin"] = _first_losses_of_twin(twin, theirs, result)
    ours = bench_ours.segmentation_trainer(arrays, **model, state_dict=state_dict)
    calls["ours"] = _first_losses(ours, result)
    seconds = interleaved(calls, runs)
    result |= _compared({(side,): value for side, value in seconds.items()})
    title = f"DeepLabV3+{_of_depth(depth)}, atrous convolutions, {image_size}x{image_size}, batch {batch}, {precision}"
    print(f"\nTraining step of {title}, Adam")
    _print_training("baseline", result, batch)
    return result


def _of_depth(depth: float) -> str:
    return "" if depth == 1 else f" of depth {depth}"


def _print_training(operator: str, result: dict[str, Any], batch: int) -> None:
    speed = f"{1000 * batch / result['ours_ms']:.1f} img/s"
    memory = f"temporaries {result['temporaries_bytes'] / 2**30:.2f} GiB"
    if "ratio" in result:
        speed = f"{result['ratio']:.2f}x  {speed}, PyTorch {1000 * batch / result['twin_ms']:.1f}"
    if result.get("twin_memory_bytes"):
        memory += f", PyTorch {result['twin_memory_bytes'] / 2**30:.2f}"
    print(f"{operator:<10} {speed}; compiled in {result['compile_s']:.1f} s; {memory}")
    if "twin_losses" in result:
        sides = (", ".join(f"{loss:.5f}" for loss in result[key]) for key in ("losses", "twin_losses"))
        print(f"{'':<10} first losses from the same weights: {next(sides)}; PyTorch {next(sides)}")


def import_seconds() -> tuple[float, float]:
    """What ``import flax.linen`` takes in a fresh process, and what ``import tvconv_jax`` adds to it."""
    code = (
        "import time; a = time.perf_counter(); import flax.linen; b = time.perf_counter(); import tvconv_jax; "
        "print(b - a, time.perf_counter() - b)"
    )
    command = tethered([sys.executable, "-c", code])
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    flax, ours = map(float, out.split())
    return flax, ours


def hardware() -> str:
    """One line on the machine: processor or accelerator, cores, versions."""
    device = jax.devices()[0]
    name = processor() if device.platform == "cpu" else device.device_kind
    return f"{name}, {cores()} cores; jax {jax.__version__} ({device.platform}), Python {platform.python_version()}"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    depth = number(0, FIELDS["depth"].high, above=True)
    parser = Parser(prog="python -m tvconv_jax.bench", description=__doc__.splitlines()[0])
    parser.add_argument("mode", nargs="?", choices=("operator", "train", "segmentation"), help="default: all")
    parser.add_argument("--batch", type=integer(1), help="images: default 32 (operator), 64 (train), 8 (segmentation)")
    parser.add_argument("--runs", type=integer(1), default=7, help="timed turns of each call: default 7")
    parser.add_argument("--image-size", type=image_size, help="default 96, 256 (segmentation)")
    parser.add_argument("--width", type=float, choices=WIDTHS, help="MobileNetV2's, in train: default 0.1")
    parser.add_argument(
        "--depth",
        type=depth,
        help="of the models, in train, segmentation: default 1",
    )
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="of both sides: default float32")
    parser.add_argument("--twin", default="eager", choices=("eager", "compiled"), help="PyTorch's way: default eager")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="writes all figures there too")
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
    twin, about_twin = load_twin(args.twin)
    flax_seconds, our_seconds = import_seconds()
    print(f"{hardware()}\n{about_twin}\nmedians of {args.runs} turns")
    print(f"import flax.linen {flax_seconds:.2f} s, import tvconv_jax {our_seconds:.2f} s more")
    print("ratio: PyTorch's time / ours (milliseconds of ours, of PyTorch's); of operators also GB/s of ours")
    figures: dict[str, Any] = {"hardware": hardware(), "twin": about_twin, "import_s": our_seconds}
    depth = args.depth or 1.0
    common = {"image_size": args.image_size or 96, "precision": args.precision, "runs": args.runs}
    if args.mode in ("operator", None):
        figures["copy_gb_per_s"] = copy_bandwidth(args.runs) / 1e9
        print(f"a copy moves {figures['copy_gb_per_s']:.0f} GB/s")
        figures["operator"] = bench_operator(twin, batch=args.batch or 32, **common)
    if args.mode in ("train", None):
        figures["train"] = bench_train(twin, batch=args.batch or 64, width=args.width or 0.1, depth=depth, **common)
    if args.mode in ("segmentation", None):
        common["image_size"] = args.image_size or 256
        figures["segmentation"] = bench_segmentation(twin, batch=args.batch or 8, depth=depth, **common)
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()
