"""Face data as the field keeps it.

    python -m tvconv_jax.data inspect PATH                what a set holds, and what in it costs accuracy
    python -m tvconv_jax.data convert SOURCE TARGET       from one format into another, byte for byte
    python -m tvconv_jax.data align SOURCE POINTS TARGET  by five landmarks, to the field's template
    python -m tvconv_jax.data purify SOURCE               the frontal part, by a classifier of configs/frontal.py
    python -m tvconv_jax.data speed SOURCE                how many pictures a second the pipeline gives

A set is a folder of ``<identity>/*.jpg``, a ``.rec``, ``tfds:NAME``, or for verification ``<set>_pair.txt`` or
``<set>.bin``. Each command says more with ``--help``.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from tvconv_jax.errors import ends_in_one_line
from tvconv_jax.recipes.arguments import seed_of


def _convert(args: argparse.Namespace) -> str:
    from tvconv_jax.data.conversion import convert  # late, as in every command: some are slow to import

    return convert(args.source, args.target)


def _align(args: argparse.Namespace) -> str:
    from tvconv_jax.data.alignment import align

    return align(args.source, args.landmarks, args.target, side=args.size)


def _inspect(args: argparse.Namespace) -> str:
    from tvconv_jax.data.inspection import inspect

    return inspect(
        args.path, tests=args.tests, side=args.size, sheet=args.sheet, seed=args.seed, every_name=args.every_name
    )


def _purify(args: argparse.Namespace) -> str:
    from tvconv_jax.tasks.purify import purify

    return purify(args.source, args.classifier, args.out, threshold=args.threshold)


def _speed(args: argparse.Namespace) -> str:
    from tvconv_jax.data.speed import speed

    return speed(args.sources, side=args.size, seconds=args.seconds)


def _side(text: str) -> int:
    if not text.isdigit() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least 8")
    return int(text)


def _seconds(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be greater than 0, and finite")
    return float(text)


def _picture(text: str) -> Path:
    from PIL import Image

    if Path(text).suffix.lower() not in Image.registered_extensions():
        raise argparse.ArgumentTypeError(f"{text} must end as a picture does: .png, .jpg")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tvconv_jax.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], str], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    command = add("inspect", _inspect, "what a set holds, and what in it costs accuracy")
    command.add_argument("path", help="training set, verification set, or a folder with both")
    command.add_argument("--tests", nargs="*", default=[], help="more test sets or lists, to look for overlap with")
    command.add_argument("--size", type=_side, default=112, help="side that pictures should have; default 112")
    command.add_argument("--sheet", type=_picture, help="picture to write: what stands out, and a sample of the rest")
    command.add_argument("--seed", type=seed_of, default=0, help="of that sample")
    command.add_argument("--every-name", action="store_true", help="tell all names of what was found, not ten")

    command = add("convert", _convert, "from one format into another, byte for byte")
    command.add_argument("source", help="folder of identities, .rec, tfds:NAME, <set>_pair.txt or .bin")
    command.add_argument("target", help="what to write, named alike")

    command = add("align", _align, "faces aligned by five landmarks, to the 112x112 template of the field")
    command.add_argument("source", type=Path, help="folder of the pictures")
    command.add_argument("landmarks", type=Path, help="list: file x1 y1 ... x5 y5 (eyes, nose, corners of the mouth)")
    command.add_argument("target", type=Path, help="folder to write")
    command.add_argument("--size", type=_side, default=112, help="side of the aligned faces: 112 (default) or 96")

    command = add("purify", _purify, "scores a training set with a frontal classifier, and lists what is to be kept")
    command.add_argument("source", help="folder of identities, .rec or tfds:NAME")
    command.add_argument("--classifier", type=Path, default=Path("runs/frontal"), help="workdir of configs/frontal.py")
    command.add_argument("--out", type=Path, default=Path("runs/purify"), help="workdir to write")
    command.add_argument("--threshold", type=float, default=0.5, help="least probability of being frontal; default 0.5")

    command = add("speed", _speed, "pictures a second of decoders and of the whole pipeline")
    command.add_argument("sources", nargs="+", help="folder of identities, .rec or tfds:NAME")
    command.add_argument("--size", type=_side, default=96, help="side to which pictures are brought; default 96")
    command.add_argument("--seconds", type=_seconds, default=3.0, help="that each measurement lasts; default 3")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    args = _parser().parse_args(argv)
    with ends_in_one_line("the same command goes on."):
        print(args.run(args))


if __name__ == "__main__":
    main()
