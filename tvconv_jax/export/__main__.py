"""Export the model of a workdir to ONNX, PyTorch or a native engine.

    python -m tvconv_jax.export --workdir=runs/a --formats=onnx,torch --out=runs/a/export
    python -m tvconv_jax.export --workdir=runs/a --rank=auto --precision=float16 --out=runs/a/small

Every file is run on test images of the run and compared with the JAX model before it is kept. MLP-Mixer and operators
that make their kernels from the image (condconv, involution, attention, ...) need ``--formats=onnx``.
"""

import argparse
from collections.abc import Sequence

from tvconv_jax.utils.cli import Parser, ends_in_one_line, names, number, path_argument

FORMATS = ("onnx", "torch", "native")


def _rank(text: str) -> str:
    from tvconv_jax.export.low_rank import parse_rank  # late, so that --help is quick

    try:
        return text if text in ("exact", "auto") else str(parse_rank(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, or exact or auto") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m tvconv_jax.export", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=path_argument, required=True, help="a run of tvconv_jax.main")
    add("--out", type=path_argument, required=True, help="folder to write")
    add("--formats", type=names(FORMATS), default="onnx,torch", help="onnx, torch, native; default: onnx,torch")
    rank = "rank of per-pixel kernels: exact (default), 1, 2, ..., auto; 1:10 is rank 1, with 10 shared-kernel layers"
    add("--rank", type=_rank, default="exact", help=rank)
    loss = "points of accuracy that auto may lose, beside its standard error; default 0.2"
    add("--max-loss", type=number(0), help=loss)
    steps = "batches of fine-tuning after truncation; default 200 with --rank=auto, else 0"
    add("--fine-tune", type=int, metavar="STEPS", dest="fine_tune_steps", help=steps)
    add("--precision", choices=("float32", "float16", "int8"), default="float32", help="of the stored weights")
    add("--lowering", default="auto", help="of ONNX: auto (default), the fastest on this machine, or its name")
    add("--best", action="store_true", help="export the best checkpoint, not the last")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    options = vars(_parser().parse_args(argv))
    with ends_in_one_line("nothing was written."):
        from tvconv_jax.export.exporting import export

        print(export(**options | {"out": options["out"].absolute()}).report)


if __name__ == "__main__":
    main()
