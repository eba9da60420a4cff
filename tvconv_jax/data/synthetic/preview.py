"""Sheets of the embedded sets.

    python -m tvconv_jax.data.synthetic.preview --out=docs/faces.png
    python -m tvconv_jax.data.synthetic.preview --set=boards --out=docs/inspection.png

Faces have identities, boards have defects; both are drawn by this package.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tvconv_jax.data.synthetic import inspection
from tvconv_jax.data.synthetic.face_rendering import render
from tvconv_jax.data.synthetic.faces import VERIFICATION, draw_identities, draw_photos
from tvconv_jax.data.synthetic.inspection import CLASSES, MASK_CLASSES, PLACES
from tvconv_jax.data.synthetic.inspection_paint import REACH
from tvconv_jax.data.tools.contact_sheet import SIZE, Row, draw_contact_sheet
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file
from tvconv_jax.utils.files import announce_overwrite, replacing

BOARD_SIZE = 64
# A color for each of MASK_CLASSES.
COLORS = np.array([(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (200, 200, 200)], np.uint8)


def _row(random: np.random.Generator, identities: dict, labels: list[int], exaggerate: dict[str, float]) -> list:
    photos = draw_photos(random, len(labels), exaggerate)
    images = render({name: values[labels] for name, values in identities.items()}, photos, SIZE)
    return [Image.fromarray(image) for image in images]


def draw_sheet(seed: int = 0) -> Image.Image:
    """Draw three identities in eight training photographs each; below, two pairs of every verification set."""
    random = np.random.default_rng(seed)
    identities = draw_identities(random, 3)
    titles = ("one identity a row, as in training", "", "")
    rows = [Row(title, _row(random, identities, [i] * 8, {})) for i, title in enumerate(titles)]
    names = list(VERIFICATION)
    for pair in zip(names[::2], names[1::2], strict=True):
        drawn = [_row(random, draw_identities(random, 3), [0, 0, 1, 2], VERIFICATION[name]) for name in pair]
        rows.append(Row(";  ".join(f"{name}: same, different" for name in pair), sum(drawn, [])))
    return draw_contact_sheet(rows, line=16)


def draw_boards(seed: int = 0, count: int = 4) -> Image.Image:
    """Draw boards of every class, the places of their defects outlined; then the masks of the last ones."""
    random = np.random.default_rng(seed)
    drawn, masks = [], np.empty(0)
    for label in CLASSES:
        boards = np.stack([inspection.assemble(random, label) for _ in range(count)])
        images, masks = inspection.photograph(random, boards, size=BOARD_SIZE, shift=0.0)
        enlarged = [Image.fromarray(image).resize((2 * BOARD_SIZE,) * 2, Image.Resampling.NEAREST) for image in images]
        for image, board in zip(enlarged, boards, strict=True):
            _outline(image, inspection.find_defects(board))
        drawn.append((label, enlarged))
    colored = [Image.fromarray(COLORS[mask]).resize((2 * BOARD_SIZE,) * 2, Image.Resampling.NEAREST) for mask in masks]
    drawn.append((f"masks of these: {', '.join(MASK_CLASSES[1:])}", colored))
    halves = zip(drawn[::2], drawn[1::2], strict=True)
    rows = [Row(f"{a};  right half: {b}", [*left, *right]) for (a, left), (b, right) in halves]
    return draw_contact_sheet(rows, size=2 * BOARD_SIZE)


def _outline(image: Image.Image, defects: np.ndarray) -> None:
    for place in (PLACES[index] for index in np.flatnonzero(defects)):
        reach = np.array([REACH[place.footprint], 0.17])
        box = (np.array([place.x, place.y]) + np.outer([-1, 1], reach) + 1) * BOARD_SIZE
        ImageDraw.Draw(image).rectangle(tuple(box.ravel()), outline="white", width=2)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.data.synthetic.preview", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, metavar="FILE", help="the PNG to write")
    parser.add_argument("--set", choices=("faces", "boards"), default="faces", help="default: faces")
    args = parser.parse_args(argv)
    out = args.out
    with ends_in_one_line("the sheet was not written."):
        announce_overwrite(out)
        with replacing(out) as part:
            sheet = draw_boards() if args.set == "boards" else draw_sheet()
            sheet.quantize(256).save(part, "PNG", optimize=True)  # a third of the bytes
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
