"""The page around a report's sections."""

from collections.abc import Sequence
from typing import NamedTuple

from tvconv_jax.report.html import Html, joined, markup, tag
from tvconv_jax.report.style import STYLE

# Nothing is loaded and no script runs, whatever stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        anchor: Its address behind ``#``.
        heading: Its title.
        body: Its markup.
    """

    anchor: str
    heading: str
    body: Html


class Figure(NamedTuple):
    """A number that stands large at the top."""

    value: str
    label: str


def page(title: str, lead: str, figures: Sequence[Figure], sections: Sequence[Section]) -> str:
    """The whole file.

    Args:
        title: Of the page.
        lead: What the reader should know first.
        figures: The most important numbers.
        sections: The rest, in their order.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    links = [tag("li", tag("a", section.heading, href=f"#{section.anchor}")) for section in sections]
    numbers = [tag("div", tag("dt", one.label), tag("dd", one.value)) for one in figures]
    body = tag(
        "body",
        tag("a", "Skip to the report", href="#main", class_="skip"),
        tag("header", tag("h1", title), tag("p", lead, class_="lead"), tag("dl", *numbers, class_="figures")),
        tag("nav", tag("ul", *links), aria_label="Contents"),
        tag("main", *map(_section, sections), id="main", tabindex="-1"),
        tag("footer", tag("p", "Made by tvconv_jax; this file loads nothing and runs no script.")),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _section(section: Section) -> Html:
    heading = f"{section.anchor}-heading"
    return tag(
        "section",
        tag("h2", section.heading, id=heading),
        section.body,
        id=section.anchor,
        aria_labelledby=heading,
    )


def paragraphs(*texts: str | Html) -> Html:
    """Texts as paragraphs."""
    return joined([tag("p", markup(text)) for text in texts])
