"""Same or different: two photographs of faces, compared by an exported model; see :mod:`tvconv_jax.edge.verify`.

python -m tvconv_jax.verify ARTIFACT ONE OTHER
"""

import importlib
from collections.abc import Sequence

from tvconv_jax.utils import cli
from tvconv_jax.utils.extras import require


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line of :mod:`tvconv_jax.edge.verify`."""
    with cli.ends_in_one_line("nothing was written."):
        require("align", "PIL", purpose=cli.called_as or "python -m tvconv_jax.verify")
        importlib.import_module("tvconv_jax.edge.verify").main(argv)


if __name__ == "__main__":
    main()
