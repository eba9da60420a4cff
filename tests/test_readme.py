"""What the README and the docs show runs; what they name exists."""

import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("barely_optimized")

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [page.read_text() for page in PAGES]
EXAMPLES = [found for text in TEXTS for found in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
# These need a run, or an image.
EXCERPTS = [found for text in TEXTS for found in re.findall(r"```py\n(.*?)```", text, re.DOTALL)]
COMMAND = re.compile(r"(?:^|`)(?:launch/cpu_env.sh )?python -m (tvconv_jax[.\w]*)([^`\n]*)", re.MULTILINE)
COMMANDS = list(dict.fromkeys(found for page in PAGES for found in COMMAND.findall(page.read_text())))


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_runs(example):
    exec(compile(example, "example", "exec"), {})


@pytest.mark.parametrize("excerpt", EXCERPTS, ids=range(len(EXCERPTS)))
def test_every_excerpt_imports_what_exists(excerpt):
    """They run in the tests of what they show."""
    compile(excerpt, "excerpt", "exec")
    exec("\n".join(re.findall(r"^(?:from|import) .*$", excerpt, re.M)), {})


@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=range(len(COMMANDS)))
def test_every_command_names_what_exists(module, arguments):
    """The commands themselves run, small, in the tests of their modules."""
    imported = importlib.import_module(module)
    if hasattr(imported, "__path__"):  # a package's command
        imported = importlib.import_module(f"{imported.__name__}.__main__")
    assert hasattr(imported, "main")
    for name, text in re.findall(r"--config=(configs/\w+\.py):?(\S*)", arguments):
        scope = {}
        exec(compile((ROOT / name).read_text(), name, "exec"), scope)
        text = text.replace("OPERATOR", "depthwise").replace("SEED", "0")
        scope["get_config"](text)
    for name in re.findall(r"configs/sweeps/\w+\.py", arguments):
        assert (ROOT / name).exists() or "NAME" in name, name


def heading(line):
    """What GitHub makes of a heading for links to it."""
    return re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")


def test_the_readme_is_two_screens():
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_heading_it_links_to_exists(page):
    text = page.read_text()
    named = dict(re.findall(r"^\[([a-z]\w*)\]: (\S+)$", text, re.M))
    assert set(re.findall(r"\]\[([a-z]\w*)\]", text)) == named.keys()
    for target in [*re.findall(r"\]\(([^)]+)\)", text), *named.values()]:
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), target
        if anchor:
            assert anchor in [heading(line) for line in linked.read_text().splitlines() if line.startswith("#")], target
