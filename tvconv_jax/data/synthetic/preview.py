"""A sheet of the embedded faces: ``python -m tvconv_jax.data.synthetic.preview --out=docs/faces.png``."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tvconv_jax.data.synthetic.faces import VERIFICATION, draw_identities, draw_photos, render
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file
from tvconv_jax.utils.files import replacing
from tvconv_jax.utils.outputs import announce_overwrite

SIZE, GAP, LINE = 64, 4, 16


def _row(random: np.random.Generator, identities: dict, labels: list[int], exaggerate: dict[str, float]) -> list:
    photos = draw_photos(random, len(labels), exaggerate)
    return list(render({name: values[labels] for name, values in identities.items()}, photos, SIZE))


def draw_sheet(seed: int = 0) -> Image.Image:
    """Draw three identities in eight training photographs each; below, two pairs of every verification set."""
    random = np.random.default_rng(seed)
    identities = draw_identities(random, 3)
    rows = [("one identity a row, as in training", _row(random, identities, [i] * 8, {})) for i in range(3)]
    names = list(VERIFICATION)
    for first, second in zip(names[::2], names[1::2], strict=True):
        images = []
        for name in (first, second):
            images += _row(random, draw_identities(random, 3), [0, 0, 1, 2], VERIFICATION[name])
        rows.append((f"{first}: same, different;  {second}: same, different", images))
    width = 8 * (SIZE + GAP) + GAP
    canvas = Image.new("RGB", (width, len(rows) * (SIZE + GAP) + 3 * LINE + GAP), "white")
    ink, y, label = ImageDraw.Draw(canvas), GAP, None
    for text, images in rows:
        if text != label:
            ink.text((GAP, y), text, fill="black", font_size=12)
            y, label = y + LINE, text
        for i, image in enumerate(images):
            canvas.paste(Image.fromarray(image), (GAP + i * (SIZE + GAP), y))
        y += SIZE + GAP
    return canvas


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
