"""A picture of the embedded faces: ``python -m tvconv_jax.data.synthetic.preview --out=docs/faces.png``."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tvconv_jax.data.synthetic.faces import VERIFICATION, draw_people, draw_photos, render
from tvconv_jax.utils.cli import Parser, ends_in_one_line, output_file
from tvconv_jax.utils.files import replacing
from tvconv_jax.utils.outputs import announce_overwrite

SIDE, GAP, LINE = 64, 4, 16


def _row(random: np.random.Generator, people: dict, who: list[int], exaggerate: dict[str, float]) -> list[np.ndarray]:
    photos = draw_photos(random, len(who), exaggerate)
    return list(render({name: values[who] for name, values in people.items()}, photos, SIDE))


def picture(seed: int = 0) -> Image.Image:
    """Three people in eight training photographs each; below, two pairs of every verification set."""
    random = np.random.default_rng(seed)
    people = draw_people(random, 3)
    rows = [("one person a row, as in training", _row(random, people, [i] * 8, {})) for i in range(3)]
    names = list(VERIFICATION)
    for first, second in zip(names[::2], names[1::2], strict=True):
        pictures = []
        for name in (first, second):
            pictures += _row(random, draw_people(random, 3), [0, 0, 1, 2], VERIFICATION[name])
        rows.append((f"{first}: same, different;  {second}: same, different", pictures))
    width = 8 * (SIDE + GAP) + GAP
    canvas = Image.new("RGB", (width, len(rows) * (SIDE + GAP) + 3 * LINE + GAP), "white")
    ink, y, label = ImageDraw.Draw(canvas), GAP, None
    for text, pictures in rows:
        if text != label:
            ink.text((GAP, y), text, fill="black", font_size=12)
            y, label = y + LINE, text
        for i, pixels in enumerate(pictures):
            canvas.paste(Image.fromarray(pixels), (GAP + i * (SIDE + GAP), y))
        y += SIDE + GAP
    return canvas


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m tvconv_jax.data.synthetic.preview", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, metavar="FILE", help="the PNG to write")
    out = parser.parse_args(argv).out
    with ends_in_one_line("the picture was not written."):
        announce_overwrite(out)
        with replacing(out) as part:
            picture().quantize(256).save(part, "PNG", optimize=True)  # a third of the bytes
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
