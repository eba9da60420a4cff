"""Classes, masks, or same and different: one's own images in an exported model; see :mod:`tvconv_jax.edge.predict`.

python -m tvconv_jax.predict ARTIFACT IMAGE ...
"""

import importlib
from collections.abc import Sequence

from tvconv_jax.utils import cli
from tvconv_jax.utils.extras import require


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line of :mod:`tvconv_jax.edge.predict`."""
    with cli.ends_in_one_line("what was written before is whole."):
        require("data", "PIL", purpose=cli.called_as or "python -m tvconv_jax.predict")
        importlib.import_module("tvconv_jax.edge.predict").main(argv)


if __name__ == "__main__":
    main()
