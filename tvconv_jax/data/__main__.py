"""Commands for faces and other identities in the field's formats, and for images in folders.

    python -m tvconv_jax.data inspect PATH                a report on a set, and on defects that cost accuracy
    python -m tvconv_jax.data convert SOURCE TARGET       from one format into another, byte for byte
    python -m tvconv_jax.data align SOURCE TARGET         faces found by a detector, to the field's template
    python -m tvconv_jax.data align SOURCE POINTS TARGET  the same, by a list of five landmarks each
    python -m tvconv_jax.data pairs FOLDER                a list of pairs to verify on, from folders of identities
    python -m tvconv_jax.data purify SOURCE               the frontal part, by a classifier of configs/frontal.py
    python -m tvconv_jax.data speed SOURCE                images/s of decoders and of the pipeline

A set is a folder of ``<identity>/*.jpg``, a ``.rec``, ``tfds:NAME``, or for verification ``<set>_pair.txt`` or
``<set>.bin``. ``--help`` after a command lists its options.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvconv_jax.utils import cli
from tvconv_jax.utils.extras import require_for

NOTHING, GOES_ON = "nothing was written.", "the same command goes on."
SETS = "folder of identities, .rec or tfds:NAME"
KINDS = ("faces", "identities", "images", "masks")


def _image_file(text: str) -> Path:
    from PIL import Image

    path = cli.output_file(text)
    if path.suffix.lower() not in Image.registered_extensions():
        raise argparse.ArgumentTypeError(f"{text} must end as an image does: .png, .jpg")
    return path


def _number_or_share(text: str) -> int | float:
    return cli.integer(2)(text) if text.isdecimal() else cli.number(0, 1, above=True)(text)


def _arg(name: str, parse: Any, text: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return name, {"type": parse, "help": text, **options}


def _size(default: int, text: str) -> tuple[str, dict[str, Any]]:
    return _arg("--size", cli.image_size, f"{text}; default {default}", default=default)


# Each command is a function of its name in a module, imported when it runs (some are slow to import): the module, the
# help, the function's arguments, and the state of the files after an error.
COMMANDS = {
    "inspect": (
        "tvconv_jax.data.tools.inspection",
        "a report on a set, and on defects that cost accuracy",
        [
            _arg("path", cli.source_argument, "folder of images; of faces also a training set, a test set, or both"),
            _arg("--tests", cli.source_argument, "more sets or lists to search for overlap", nargs="*", default=[]),
            _arg("--size", cli.image_size, "expected height and width; default 112 for faces, any for others"),
            ("--kind", {"choices": KINDS, "help": "of the images; default: guessed, and said"}),
            _arg("--sheet", _image_file, "image to write: outliers, and a sample of the rest"),
            _arg("--seed", cli.seed_argument, "seed of that sample", default=0),
            ("--every-name", {"action": "store_true", "help": "list all names of a finding, not ten"}),
        ],
        NOTHING,
    ),
    "convert": (
        "tvconv_jax.data.tools.conversion",
        "from one format into another, byte for byte",
        [
            _arg("source", cli.source_argument, f"{SETS}, <set>_pair.txt or .bin"),
            _arg("target", cli.target_argument, "path to write, in the same notation"),
        ],
        NOTHING,
    ),
    "align": (
        "tvconv_jax.data.tools.alignment",
        "faces found and aligned by five landmarks, to the 112x112 template of the field",
        [
            _arg("source", cli.path_argument, "folder of the images"),
            _arg(
                "landmarks",
                cli.path_argument,
                "list: file x1 y1 ... x5 y5 (eyes, nose, corners of the mouth); default: found by a face detector",
                nargs="?",
            ),
            _arg("target", cli.output_folder, "folder to write"),
            _size(112, "height and width of the aligned faces, 112 or 96"),
        ],
        GOES_ON,
    ),
    "pairs": (
        "tvconv_jax.data.tools.pair_list",
        "a balanced list of verification pairs, from a folder of identities",
        [
            _arg("folder", cli.path_argument, "folder of identities: a data.root, or the train in it"),
            _arg("--out", cli.output_file, "list to write, <set>_pair.txt; default: own_pair.txt in data.root"),
            _arg("--pairs-per-fold", cli.integer(2), "default: as many as the images allow, up to 600"),
            _arg("--seed", cli.seed_argument, "seed of what is drawn; default 0", default=0),
            _arg("--hold-out", _number_or_share, "identities for the pairs, kept apart from training: 20, or 0.2"),
        ],
        NOTHING,
    ),
    "purify": (
        "tvconv_jax.tasks.purify",
        "a list of the images of a training set that a frontal classifier keeps",
        [
            _arg("source", cli.source_argument, SETS),
            _arg("--classifier", cli.path_argument, "workdir of configs/frontal.py", default="runs/frontal"),
            _arg("--out", cli.output_folder, "workdir to write", default="runs/purify"),
            _arg("--threshold", cli.number(0, 1), "least probability to be frontal; default 0.5", default=0.5),
        ],
        GOES_ON,
    ),
    "speed": (
        "tvconv_jax.data.tools.speed",
        "images/s of decoders and of the whole pipeline",
        [
            _arg("sources", cli.source_argument, SETS, nargs="+"),
            _size(96, "height and width to which images are resized"),
            _arg("--seconds", cli.seconds, "duration of each measurement; default 3", default=3.0),
        ],
        NOTHING,
    ),
}


class _Command(cli.Parser):
    """A parser that takes options between positional arguments of which one may be left out."""

    _nested = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if self._nested:  # called by the line below
            return super().parse_known_args(args, namespace)
        self._nested = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._nested = False


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = cli.Parser(prog="python -m tvconv_jax.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)
    for name, (_, text, options, _) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=text)
        for argument, kwargs in options:
            subparser.add_argument(argument, **kwargs)
    arguments = vars(parser.parse_args(argv))
    name = arguments.pop("command")
    module, _, _, after = COMMANDS[name]
    target = arguments.get("target", "")
    if name == "convert" and not (target.startswith(cli.TFDS) or target.endswith((".bin", ".idx"))):
        after = GOES_ON  # loose images and records; the others are written whole or not at all
    with cli.ends_in_one_line(after):
        require_for(module, f"{parser.prog} {name}")
        print(getattr(importlib.import_module(module), name)(**arguments))


if __name__ == "__main__":
    main()
