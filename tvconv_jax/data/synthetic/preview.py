"""A sheet of the embedded faces: ``python -m tvconv_jax.data.synthetic.preview --out=docs/faces.png``."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tvconv_jax.data.synthetic.face_rendering import render
from tvconv_jax.data.synthetic.faces import VERIFICATION, draw_identities, draw_photos
from tvconv_jax.data.tools.contact_sheet import SIZE, Row, draw_contact_sheet
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file
from tvconv_jax.utils.files import announce_overwrite, replacing


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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.data.synthetic.preview", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, metavar="FILE", help="the PNG to write")
    out = parser.parse_args(argv).out
    with ends_in_one_line("the sheet was not written."):
        announce_overwrite(out)
        with replacing(out) as part:
            draw_sheet().quantize(256).save(part, "PNG", optimize=True)  # a third of the bytes
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
