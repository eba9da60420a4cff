"""Figures of a GPU within a given time, most wanted first.

    python -m tvconv_jax.bench gpu --minutes=10 --out=DIR [--faces=DIR|FILE.npz]
    python -m tvconv_jax.bench gpu --page=DIR/bench_gpu.jsonl

Measures a copy, the operators with their gradients as shares of a copy of the same bytes, training steps beside a plain
PyTorch baseline and, with ``--faces``, runs on faces with both operators. Every figure is one JSON line in
``DIR/bench_gpu.jsonl``, written at once. The same command again goes on with what is missing. ``--page`` prints
Markdown tables of such a file. ``--tiny`` tries the command on a CPU. Needs JAX, Flax and Optax; Pillow for faces; the
baseline is left out where PyTorch or its CUDA is missing.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tvconv_jax.bench.gpu.item import TINY, Sizes
from tvconv_jax.bench.gpu.items import SECTIONS, groups
from tvconv_jax.bench.gpu.page import page
from tvconv_jax.bench.gpu.processes import Worker
from tvconv_jax.bench.gpu.record import FILE, Record, commit, read_rows
from tvconv_jax.utils.cli import Parser, ends_in_one_line, integer, names, number, output_folder, path_argument
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.extras import require


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.bench gpu", description=__doc__)
    add = parser.add_argument
    add("--out", type=output_folder, metavar="DIR", help=f"holds {FILE}")
    add("--minutes", type=number(0, above=True), default=10, help="of the whole command: default 10")
    add("--only", type=names(SECTIONS), default=list(SECTIONS), help=f"default: {','.join(SECTIONS)}")
    add("--faces", type=path_argument, help="a folder of aligned faces with a list of pairs, or a packed file")
    add("--batch", type=integer(2), help=f"images of operators and steps: default {Sizes.batch}")
    add("--epochs", type=number(0, above=True), help=f"of a run on faces: default {Sizes.epochs:g}")
    add("--commit", help="of the code, where git does not know it")
    add("--tiny", action="store_true", help="tiny sizes: the command works, the figures mean nothing")
    add("--page", type=path_argument, metavar="FILE", help="print the tables of a file, and measure nothing")
    args = parser.parse_args(argv)
    if not args.page and not args.out:
        parser.error("--out is missing; name a folder for the figures, or --page=FILE")
    with ends_in_one_line(f"what was measured stands in {FILE}."):
        if args.page:
            print(page(read_rows(args.page)))
        else:
            _run(args)


def _run(args: argparse.Namespace) -> None:
    deadline = time.time() + 60 * args.minutes
    require("train", "optax", purpose="bench gpu")
    given = {name: getattr(args, name) for name in ("batch", "epochs") if getattr(args, name) is not None}
    sizes = dataclasses.replace(TINY if args.tiny else Sizes(), **given)
    record = Record(args.out, commit=args.commit or commit(), tiny=args.tiny)
    worker = Worker(record, sizes, args.faces, deadline)
    wanted = groups(sizes, args.only, _digest(args.faces))
    try:
        worker.look()
        for group in wanted:
            worker.measure(group)
    finally:
        worker.close()
    missing = sum(len(items) for group in wanted for items in record.missing(group.sets))
    print(f"{missing} figures are missing or failed" if missing else "all is measured", file=sys.stderr)


def _digest(faces: Path | None) -> str | None:
    if faces is None:
        return None
    require("data", "PIL", purpose="--faces")
    if not faces.exists():
        raise UserError(f"--faces={faces} does not exist; name a folder or a packed file.")
    from tvconv_jax.bench.gpu.face_files import digest_of  # late: needs Pillow

    return digest_of(faces)
