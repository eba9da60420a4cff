"""The paper's figures, each by its number, as PNG and PDF.

    python -m tvconv_jax.experiments.figures figure1e runs/a photographs   variance of features
    python -m tvconv_jax.experiments.figures figure4 runs/table1           accuracy against MACs
    python -m tvconv_jax.experiments.figures figure5 runs/a                affinity maps
    python -m tvconv_jax.experiments.figures figure7 runs/pi/*.json        accuracy against throughput on a device
    python -m tvconv_jax.experiments.figures boards runs/boards            accuracy on drawn boards
    python -m tvconv_jax.experiments.figures lead runs/lead                TVConv's lead on small faces

Figure 9 is ``pictures.png`` in the workdir of a segmentation run. ``runs/a`` is a workdir of ``tvconv_jax.main``,
``runs/table1`` a folder of ``tvconv_jax.experiments.sweep``, ``photographs`` any folder of images; the JSON files are
of ``tvconv_jax.edge.benchmark --json``. Several sources are drawn together.
"""

import importlib
from collections.abc import Sequence

from absl import logging

from tvconv_jax.report.plot_style import drawing
from tvconv_jax.utils.cli import Parser, ends_in_one_line, image_size, integer, output_folder, path_argument

# Figure: its module, its sources, their number, and its help. Sweeps are drawn at once, for JAX is not imported.
FIGURES = {
    "boards": ("curve_figures", "SWEEP", "+", "accuracy on drawn boards against images, shift and rotation"),
    "figure1e": ("set_figures", "WORKDIR|FOLDER", "+", "intra- and cross-image variance of features"),
    "figure4": ("sweep_figures", "SWEEP", "+", "accuracy against MACs, a line an operator"),
    "figure5": ("map_figures", "WORKDIR", 1, "affinity maps of every layer and their evolution in training"),
    "figure6": ("sweep_figures", "SWEEP", "+", "accuracy against MACs, a point a setting"),
    "figure7": ("edge_figures", "JSON", "+", "accuracy against throughput on a device"),
    "figure8": ("edge_figures", "JSON", "+", "accuracy against peak memory on a device"),
    "figure10": ("curve_figures", "SWEEP", "+", "accuracy against transformed images"),
    "lead": ("lead_figures", "SWEEP", "+", "TVConv's lead on small faces against steps, images, width and changes"),
    "rates": ("curve_figures", "SWEEP", "+", "accuracy against the learning rate"),
    "steps": ("curve_figures", "SWEEP", "+", "accuracy on small faces against steps and images"),
    "figure11": ("set_figures", "WORKDIR|FOLDER", "+", "mean and standard deviation of sets at every pixel"),
}
RENAMED = {"--pictures": "--images", "--side": "--image-size"}


def _parser() -> Parser:
    parser = Parser(prog="python -m tvconv_jax.experiments.figures", description=__doc__, renamed=RENAMED)
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name, (_, source, number, shows) in FIGURES.items():
        add = figures.add_parser(name, help=shows, description=shows).add_argument
        add("sources", nargs=number, type=path_argument, metavar=source)
        add("--out", type=output_folder, default="figures", metavar="DIR", help="default: figures")
        if name in ("figure1e", "figure11"):
            add("--images", type=integer(1), default=1000, metavar="N", help="at most so many of a set; default: 1000")
        if name == "figure1e":
            add("--layer", help="part of the model; default: the deepest on at least a quarter of the image size")
            add("--set", metavar="NAME", help="set of a workdir; default: its training images")
        if name == "figure11":
            add("--image-size", type=image_size, default=96, help="to which images of folders are resized; default: 96")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    options = vars(_parser().parse_args(argv))
    name, out = options.pop("figure"), options.pop("out").absolute()
    sources = [path.absolute() for path in options.pop("sources")]
    logging.set_verbosity(logging.FATAL)  # Orbax warns of items that checkpoints of other versions lack
    with ends_in_one_line("nothing was drawn."), drawing():
        module = importlib.import_module(f"tvconv_jax.experiments.{FIGURES[name][0]}")
        for file in getattr(module, name)(sources, out, **options):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
