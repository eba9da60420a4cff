"""HTML from values, images as data, and the page around a report's sections; text that is not markup is escaped."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

NAME = "report.html"
VOID = {"img", "meta", "link"}  # elements without an end
# Nothing is loaded and no script runs, whatever stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is markup already; any other text is escaped where it is put into markup."""


class Section(NamedTuple):
    """A part of the page: its anchor behind ``#``, its heading, its content."""

    anchor: str
    heading: str
    body: Html


class Figure(NamedTuple):
    """A number in large type at the top."""

    value: str
    label: str


def markup(value: Any) -> Html:
    """Escape a value, unless it is markup."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(parts: Sequence[Any], separator: str = "") -> Html:
    """Join the markup of several values."""
    return Html(separator.join(map(markup, parts)))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Return an element; children that are ``None`` are left out.

    Of the attributes ``class_`` is ``class``, ``aria_label`` is ``aria-label``; ``None`` is left out, ``True`` has no
    value.
    """
    shown = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            shown.append(f" {key}")
        elif value is not None:
            shown.append(f' {key}="{html.escape(str(value))}"')
    start = f"<{name}{''.join(shown)}>"
    if name in VOID:
        return Html(start)
    return Html(f"{start}{joined([child for child in children if child is not None])}</{name}>")


def paragraphs(*texts: str | Html) -> Html:
    """Return each text as a paragraph."""
    return joined([tag("p", text) for text in texts])


def code_block(text: str) -> Html:
    """Return a command to copy."""
    return tag("pre", tag("code", text), tabindex="0")


def details(summary: str, *children: Any, open_: bool = False) -> Html:
    """Return an element that unfolds; it is open in print."""
    return tag("details", tag("summary", summary), *children, open=open_ or None)


def definitions(meanings: Mapping[str, str]) -> Html:
    """Return the meanings of a table's columns, folded."""
    terms = (tag("div", tag("dt", term), tag("dd", text)) for term, text in meanings.items())
    return details("Definitions of the columns", tag("dl", *terms, class_="plain"))


def scrolling(label: str, child: Html) -> Html:
    """Return a named region that scrolls by itself on a narrow screen."""
    return tag("div", child, class_="scroll", role="region", aria_label=label, tabindex="0")


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, words: Sequence[int] = (0,)) -> Html:
    """Return a table; the first cell of a row names it, and the columns ``words`` hold words, not numbers."""
    kinds = ["words" if i in words else None for i in range(len(head))]
    titles = [tag("th", title, scope="col", class_=kind) for title, kind in zip(head, kinds, strict=True)]
    body = []
    for first, *cells in rows:
        named = tag("th", first, scope="row", class_=kinds[0])
        body.append(tag("tr", named, *(tag("td", c, class_=k) for c, k in zip(cells, kinds[1:], strict=True))))
    return scrolling(
        caption, tag("table", tag("caption", caption), tag("thead", tag("tr", *titles)), tag("tbody", *body))
    )


def page(title: str, lead: str, figures: Sequence[Figure], sections: Sequence[Section]) -> str:
    """Return the whole file: title, summary, the most important numbers, sections."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(Path(__file__).with_name("style.css").read_text())),
    )
    links = [tag("li", tag("a", section.heading, href=f"#{section.anchor}")) for section in sections]
    numbers = [tag("div", tag("dt", figure.label), tag("dd", figure.value)) for figure in figures]
    body = tag(
        "body",
        tag("a", "Skip to the report", href="#main", class_="skip"),
        tag("header", tag("h1", title), tag("p", lead, class_="lead"), tag("dl", *numbers, class_="figures")),
        tag("nav", tag("ul", *links), aria_label="Contents"),
        tag("main", *map(_section, sections), id="main", tabindex="-1"),
        tag("footer", tag("p", "Made by tvconv_jax. This file loads nothing and runs no script.")),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _section(section: Section) -> Html:
    heading = f"{section.anchor}-heading"
    title = tag("h2", section.heading, id=heading)
    return tag("section", title, section.body, id=section.anchor, aria_labelledby=heading)


GAP = 3  # pixels between images


def image(pixels: Image.Image, alt: str, *, kind: str = "PNG", class_: str | None = None) -> Html:
    """Return an image element: ``"PNG"``, exact, or ``"JPEG"``, for photographs."""
    file = io.BytesIO()
    pixels.save(file, kind, **({"quality": 90} if kind == "JPEG" else {"optimize": True}))
    data = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    return tag("img", src=data, alt=alt, width=pixels.width, height=pixels.height, class_=class_)


def withheld(instead: str) -> Html:
    """Return a paragraph about images that are left out."""
    text = f"Reports are passed on, so they hold no images of the data; {instead}. To include them, train with "
    return tag("p", text, tag("code", "--config.eval.report_images=True"), ".")


def strip(images: Sequence[Image.Image], height: int) -> Image.Image:
    """Return images in a row, each resized to a height in pixels; white between them."""
    scaled = [image.resize((round(image.width * height / image.height), height)) for image in images]
    canvas = Image.new("RGB", (sum(image.width for image in scaled) + GAP * (len(scaled) - 1), height), "white")
    at = 0
    for item in scaled:
        canvas.paste(item, (at, 0))
        at += item.width + GAP
    return canvas


def in_grid(maps: np.ndarray, columns: int, gap: int, between: float = 0) -> np.ndarray:
    """Return maps ``[h, w, a]`` as one array ``[H, W]``, row by row, with a value in the gaps and in missing maps."""
    height, width, count = maps.shape
    whole = np.full((-(-count // columns) * (height + gap), columns * (width + gap)), between, maps.dtype)
    for number in range(count):
        y, x = number // columns * (height + gap), number % columns * (width + gap)
        whole[y : y + height, x : x + width] = maps[..., number]
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap]


def enlarged(maps: np.ndarray, factor: int) -> np.ndarray:
    """Return maps ``[h, w, a]`` with every pixel as a square of ``factor`` pixels."""
    return maps.repeat(factor, axis=0).repeat(factor, axis=1)


def map_strip(maps: np.ndarray, *, size: int = 72, columns: int = 4) -> Image.Image:
    """Return maps ``[h, w, a]`` in gray: black is the smallest value of all of them, white the largest.

    A map is at least ``size`` pixels high; pixels of small maps become squares.
    """
    low, high = float(maps.min()), float(maps.max())
    gray = np.round(255 * (maps - low) / (high - low or 1.0)).astype(np.uint8)
    gray = enlarged(gray, max(1, -(-size // maps.shape[0])))
    columns = min(columns, maps.shape[-1])
    opacity = np.full_like(gray, 255)
    return Image.fromarray(np.stack([in_grid(values, columns, GAP) for values in (gray, opacity)], axis=-1), "LA")
