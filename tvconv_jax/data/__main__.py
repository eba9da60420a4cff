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
from collections.abc import Callable, Sequence
from pathlib import Path

from tvconv_jax.utils.cli import (
    TFDS,
    Parser,
    ends_in_one_line,
    image_size,
    number,
    output_file,
    output_folder,
    path_argument,
    seconds,
    seed_argument,
    source_argument,
    target_argument,
)

GOES_ON = "the same command goes on."


def _convert(args: argparse.Namespace) -> str:
    from tvconv_jax.data.tools.conversion import convert  # late, as in every command: some are slow to import

    return convert(args.source, args.target)


def _align(args: argparse.Namespace) -> str:
    from tvconv_jax.data.tools.alignment import align

    return align(args.source, args.landmarks, args.target, side=args.size)


def _inspect(args: argparse.Namespace) -> str:
    from tvconv_jax.data.tools.inspection import inspect

    return inspect(
        args.path, tests=args.tests, side=args.size, sheet=args.sheet, seed=args.seed, every_name=args.every_name
    )


def _purify(args: argparse.Namespace) -> str:
    from tvconv_jax.tasks.purify import purify

    return purify(args.source, args.classifier, args.out, threshold=args.threshold)


def _speed(args: argparse.Namespace) -> str:
    from tvconv_jax.data.tools.speed import speed

    return speed(args.sources, side=args.size, seconds=args.seconds)


def _picture(text: str) -> Path:
    from PIL import Image

    path = output_file(text)
    if path.suffix.lower() not in Image.registered_extensions():
        raise argparse.ArgumentTypeError(f"{text} must end as a picture does: .png, .jpg")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m tvconv_jax.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable, text: str, after: str = "nothing was written.") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run, after=after)
        return command

    command = add("inspect", _inspect, "what a set holds, and what in it costs accuracy")
    command.add_argument("path", type=source_argument, help="training set, verification set, or a folder with both")
    command.add_argument(
        "--tests", nargs="*", type=source_argument, default=[], help="more test sets or lists, to look for overlap with"
    )
    command.add_argument("--size", type=image_size, default=112, help="side that pictures should have; default 112")
    command.add_argument("--sheet", type=_picture, help="picture to write: what stands out, and a sample of the rest")
    command.add_argument("--seed", type=seed_argument, default=0, help="of that sample")
    command.add_argument("--every-name", action="store_true", help="tell all names of what was found, not ten")

    command = add("convert", _convert, "from one format into another, byte for byte")
    command.add_argument(
        "source", type=source_argument, help="folder of identities, .rec, tfds:NAME, <set>_pair.txt or .bin"
    )
    command.add_argument("target", type=target_argument, help="what to write, named alike")

    command = add("align", _align, "faces aligned by five landmarks, to the 112x112 template of the field", GOES_ON)
    command.add_argument("source", type=path_argument, help="folder of the pictures")
    command.add_argument(
        "landmarks", type=path_argument, help="list: file x1 y1 ... x5 y5 (eyes, nose, corners of the mouth)"
    )
    command.add_argument("target", type=output_folder, help="folder to write")
    command.add_argument("--size", type=image_size, default=112, help="side of the aligned faces: 112 (default) or 96")

    command = add("purify", _purify, "lists what a frontal classifier would keep of a training set", GOES_ON)
    command.add_argument("source", type=source_argument, help="folder of identities, .rec or tfds:NAME")
    command.add_argument(
        "--classifier", type=path_argument, default="runs/frontal", help="workdir of configs/frontal.py"
    )
    command.add_argument("--out", type=output_folder, default="runs/purify", help="workdir to write")
    command.add_argument(
        "--threshold", type=number(0, 1), default=0.5, help="least probability to be frontal; default 0.5"
    )

    command = add("speed", _speed, "pictures a second of decoders and of the whole pipeline")
    command.add_argument("sources", nargs="+", type=source_argument, help="folder of identities, .rec or tfds:NAME")
    command.add_argument("--size", type=image_size, default=96, help="side to which pictures are brought; default 96")
    command.add_argument("--seconds", type=seconds, default=3.0, help="that each measurement lasts; default 3")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    args = _parser().parse_args(argv)
    if args.run is _convert and not (args.target.startswith(TFDS) or args.target.endswith((".bin", ".idx"))):
        args.after = GOES_ON  # loose pictures and records; the others are written whole or not at all
    with ends_in_one_line(args.after):
        print(args.run(args))


if __name__ == "__main__":
    main()
