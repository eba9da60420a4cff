"""Pages as a headless Chromium sees them; nothing but the browser itself is needed."""

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
).split()
# Runs in the page around the report: the report's own policy lets no script run in it.
SCRIPT = """
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const colors = one => { const s = getComputedStyle(one); return [s.color, s.backgroundColor] };
    const all = selector => [...page.querySelectorAll(selector)];
    const skip = page.querySelector("a.skip"), first = page.querySelector("a, button, input, summary, [tabindex]");
    skip.focus();
    const box = skip.getBoundingClientRect();
    return {
      images: all("img").length,
      broken: all("img").filter(one => !one.complete || !one.naturalWidth).map(one => one.alt),
      unnamed: all("img, svg[role=img]").filter(one => !(one.alt || one.getAttribute("aria-label"))).length,
      drawings: all("svg[role=img]").length,
      empty: all("svg[role=img]").filter(one => !one.querySelector(".series path, .series use")).length,
      wide: root.scrollWidth - root.clientWidth,
      scripts: page.scripts.length,
      loaded: frame.contentWindow.performance.getEntriesByType("resource").map(one => one.name),
      body: colors(page.body), soft: colors(page.querySelector("dt, caption"))[0], link: colors(first)[0],
      landmarks: ["header", "nav", "main", "footer"].map(name => all("body > " + name).length),
      headings: all("h1, h2, h3, h4").map(one => Number(one.tagName[1])),
      skip: [first === skip, box.left >= 0, getComputedStyle(skip).outlineStyle, all("#main").length],
      targets: all("a[href^='#']").filter(one => !page.getElementById(one.getAttribute("href").slice(1))).length,
      tables: all("table").filter(one => !one.closest("[role=region][tabindex='0'][aria-label]")).length,
    };
  });
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
});
"""


def look(pages: Sequence[str], *, width: int, dark: bool) -> tuple[list[dict], list[str]]:
    """Return the findings of a browser of a width, in light or dark, on each page; and the lines of its console."""
    style = f"border:0;width:{width}px;height:800px"
    frames = [f'<iframe srcdoc="{html.escape(page)}" style="{style}"></iframe>' for page in pages]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "frames.html")
        file.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(frames)}<script>{SCRIPT}</script></body>")
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        command = [browser(), *FLAGS, scheme, f"--user-data-dir={folder}/profile", file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search("FOUND(.*)END</body>", done.stdout)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


def check_pages(pages: Sequence[str], *, dark: bool) -> list[dict]:
    """Assert that a browser finds nothing wrong with reports, on a phone and on a screen; return what it saw."""
    for width in (360, 1280):
        found, console = look(pages, width=width, dark=dark)
        assert not console
        for page, one in zip(pages, found, strict=True):
            faults = (one["broken"], one["unnamed"], one["empty"], one["loaded"], one["scripts"])
            assert faults == ([], 0, 0, [], 0), page[:200]
            assert one["wide"] <= 0, f"{page[:200]} scrolls sideways by {one['wide']} pixels at {width}"
            text, back = one["body"]
            assert (contrast(back, "rgb(0, 0, 0)") < 2) == dark
            assert min(contrast(color, back) for color in (text, one["soft"], one["link"])) >= 4.5  # WCAG AA
            assert one["landmarks"] == [1, 1, 1, 1] and one["targets"] == 0 and one["tables"] == 0
            assert one["skip"] == [True, True, "solid", 1]  # first, seen when focused, with a frame, leads somewhere
            levels = one["headings"]
            assert levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    return found


def browser() -> str:
    """Return the browser's path; without one the test fails, unless an environment variable allows that."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and os.environ.get("TVCONV_JAX_NO_BROWSER") == "1":
        pytest.skip("TVCONV_JAX_NO_BROWSER=1: no browser checks the reports")
    if path is None:
        pytest.fail(
            f"none of {', '.join(NAMES)} is on PATH; install it (Debian: apt-get install --no-install-recommends "
            f"chromium), or set TVCONV_JAX_NO_BROWSER=1 to leave this check out.",
            pytrace=False,
        )
    return path


def contrast(one: str, other: str) -> float:
    """Return the contrast of two CSS colors ``rgb(r, g, b)``, 1 to 21 (WCAG 2.1)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
