"""Markup from values: whatever is not markup already is escaped."""

import html
from collections.abc import Sequence
from typing import Any

VOID = {"img", "meta", "link"}  # elements without an end


class Html(str):
    """Text that is markup already; any other text is escaped where it is put into markup."""


def markup(value: Any) -> Html:
    """Escapes a value, unless it is markup."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(parts: Sequence[Any], separator: str = "") -> Html:
    """The parts one after the other."""
    return Html(separator.join(map(markup, parts)))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: Of the element.
        children: What it holds; ``None`` is left out.
        attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; one that is ``None`` is left out, one
            that is ``True`` has no value.
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


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, words: Sequence[int] = (0,)) -> Html:
    """A table that scrolls by itself where the screen is narrow.

    Args:
        caption: What it shows; also its name for a screen reader.
        head: Titles of the columns.
        rows: Their cells; the first of a row names it.
        words: Which columns hold words and not numbers.
    """
    kinds = ["words" if i in words else None for i in range(len(head))]
    titles = [tag("th", title, scope="col", class_=kind) for title, kind in zip(head, kinds, strict=True)]
    body = []
    for first, *cells in rows:
        named = tag("th", first, scope="row", class_=kinds[0])
        body.append(tag("tr", named, *(tag("td", c, class_=k) for c, k in zip(cells, kinds[1:], strict=True))))
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", *titles)), tag("tbody", *body))
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def details(summary: str, *children: Any, open_: bool = False) -> Html:
    """What can be unfolded; open in print."""
    return tag("details", tag("summary", summary), *children, open=open_ or None)
