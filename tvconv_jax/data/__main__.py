"""Face data as the field keeps it.

    python -m tvconv_jax.data convert SOURCE TARGET

converts ``DIR`` of ``<identity>/*.jpg`` to ``train.rec`` and back, and ``<set>_pair.txt`` to ``<set>.bin`` and back; no
picture is encoded anew. ``train.rec`` to ``train.idx`` writes an index that was lost.
"""

import argparse
import sys
from collections.abc import Sequence

from tvconv_jax.data.conversion import convert
from tvconv_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tvconv_jax.data", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert", help="from one format into another, byte for byte")
    command.add_argument("source", help="folder of identities, .rec, tfds:NAME, <set>_pair.txt or .bin")
    command.add_argument("target", help="what to write, named alike")
    args = parser.parse_args(argv)
    try:
        print(convert(args.source, args.target))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
