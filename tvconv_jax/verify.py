"""Same or different: two photographs of faces, compared by an exported model; see :mod:`tvconv_jax.edge.verify`.

python -m tvconv_jax.verify ARTIFACT ONE OTHER
"""

from tvconv_jax.edge import verify
from tvconv_jax.utils import cli

if __name__ == "__main__":
    with cli.ends_in_one_line("nothing was written."):
        verify.main()
