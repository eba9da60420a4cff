"""The paper's figures, each by its number, as PNG and PDF.

    python -m tvconv_jax.experiments.figures figure1e runs/a photographs   intra- and cross-image variance of features
    python -m tvconv_jax.experiments.figures figure4 runs/table1           accuracy against MACs, a line an operator
    python -m tvconv_jax.experiments.figures figure5 runs/a                affinity maps, and how they came about
    python -m tvconv_jax.experiments.figures figure6 runs/figure6          accuracy against MACs, a point a setting
    python -m tvconv_jax.experiments.figures figure7 runs/pi/*.json        accuracy against throughput on a device
    python -m tvconv_jax.experiments.figures figure8 runs/pi/*.json        accuracy against peak memory on a device
    python -m tvconv_jax.experiments.figures figure10 runs/figure10        accuracy against transformed images
    python -m tvconv_jax.experiments.figures figure11 runs/a photographs   mean and standard deviation at every pixel

Figure 9 is ``pictures.png`` in the workdir of a segmentation run. ``runs/a`` is a workdir of ``tvconv_jax.main``,
``runs/table1`` one of ``tvconv_jax.experiments.sweep``, ``photographs`` any folder of pictures; the JSON files are of
``tvconv_jax.edge.benchmark --json``. Where several stand, they are drawn together.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from tvconv_jax.utils.cli import Parser, ends_in_one_line, image_size, integer, output_folder, path_argument

# Figure: what it is drawn from, how many of them, and what it shows.
SOURCES = {
    "figure1e": ("WORKDIR|FOLDER", "+", "intra- and cross-image variance of features"),
    "figure4": ("SWEEP", "+", "accuracy against MACs, a line an operator"),
    "figure5": ("WORKDIR", 1, "affinity maps of every layer, and how they came about"),
    "figure6": ("SWEEP", "+", "accuracy against MACs, a point a setting"),
    "figure7": ("JSON", "+", "accuracy against throughput on a device"),
    "figure8": ("JSON", "+", "accuracy against peak memory on a device"),
    "figure10": ("SWEEP", "+", "accuracy against transformed images"),
    "figure11": ("WORKDIR|FOLDER", "+", "mean and standard deviation of sets at every pixel"),
}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m tvconv_jax.experiments.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name, (source, number, shows) in SOURCES.items():
        add = figures.add_parser(name, help=shows, description=shows).add_argument
        add("sources", nargs=number, type=path_argument, metavar=source)
        add("--out", type=output_folder, default="figures", metavar="DIR", help="default: figures")
        if name in ("figure1e", "figure11"):
            add("--pictures", type=integer(1), default=1000, metavar="N", help="at most so many of a set; default 1000")
        if name == "figure1e":
            add("--layer", default=None, help="part of the model; default: the deepest on a quarter of the side")
            add("--set", default=None, metavar="NAME", help="which set of a workdir; default: its training pictures")
        if name == "figure11":
            add(
                "--side",
                type=image_size,
                default=96,
                help="to which pictures of folders are brought; default 96",
            )
    return parser


def draw(args: argparse.Namespace) -> list[Path]:
    """Draws what the command line names; the files."""
    sources, out = [path.absolute() for path in args.sources], args.out.absolute()
    # Each imports what it needs and no more: sweeps are drawn at once, without JAX.
    if args.figure == "figure1e":
        from tvconv_jax.experiments.variance_figure import figure1e

        return figure1e(sources, out, layer=args.layer, chosen=args.set, pictures=args.pictures)
    if args.figure in ("figure4", "figure6"):
        from tvconv_jax.experiments import envelope

        return getattr(envelope, args.figure)(sources, out)
    if args.figure == "figure5":
        from tvconv_jax.experiments.map_figures import figure5

        return figure5(sources[0], out)
    if args.figure in ("figure7", "figure8"):
        from tvconv_jax.experiments import edge_figures

        return edge_figures.draw(edge_figures.read_points(sources), out, [args.figure])
    if args.figure == "figure10":
        from tvconv_jax.experiments.sensitivity import figure10

        return figure10(sources, out)
    from tvconv_jax.experiments.pixel_figure import figure11

    return figure11(sources, out, pictures=args.pictures, side=args.side)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    args = _parser().parse_args(argv)
    logging.set_verbosity(logging.FATAL)  # Orbax warns of what checkpoints of other versions lack
    with ends_in_one_line("nothing was drawn."):
        for file in draw(args):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
