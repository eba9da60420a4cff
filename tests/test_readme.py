"""What the README and the site show runs; what they name exists. ``make docs`` runs the cells of the pages."""

import importlib
import re
from pathlib import Path

import pytest

from tvconv_jax.__main__ import COMMANDS as COMMANDS_OF_SCRIPT
from tvconv_jax.export.__main__ import _parser as export_parser
from tvconv_jax.tasks.keys import KEYS
from tvconv_jax.utils.launch import list_scripts
from tvconv_jax.utils.shipped import find_config

pytestmark = pytest.mark.usefixtures("barely_optimized")

ROOT = Path(__file__).parent.parent
SITE = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]
TEXTS = {page: page.read_text().replace("\\\n", " ") for page in PAGES}
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCED = {
    fence: [found for text in TEXTS.values() for found in re.findall(rf"```{fence}\n(.*?)```", text, re.DOTALL)]
    for fence in ("python", "py")  # the latter need a run, or an image
}
COMMAND = re.compile(
    r"(?:^|`|^!|-- )(?:launch/cpu_env.sh )?python -m ((?:tvconv_jax|tests\.stress)[.\w]*)([^`\n]*)", re.MULTILINE
)
COMMANDS = list(dict.fromkeys(found for text in TEXTS.values() for found in COMMAND.findall(text)))
SECTIONS = "data|eval|finetune|loss|mesh|model|optimizer|train"
KEY = re.compile(rf"(?:--config\.|`)((?:{SECTIONS})\.(?!(?:idx|lst|onnx|pt2|py|rec|safetensors)\b)\w+(?:\.\w+)*)[=`]")


def load_config(name, text=""):
    scope = {}
    exec(compile((ROOT / name).read_text(), name, "exec"), scope)
    return scope["get_config"](text)


@pytest.mark.parametrize("example", FENCED["python"], ids=range(len(FENCED["python"])))
def test_every_example_runs(example):
    exec(compile(example, "example", "exec"), {})


@pytest.mark.parametrize("excerpt", FENCED["py"], ids=range(len(FENCED["py"])))
def test_every_excerpt_imports_what_exists(excerpt):
    """They run in the tests of what they show."""
    compile(excerpt, "excerpt", "exec")
    exec("\n".join(re.findall(r"^(?:from|import) .*$", excerpt, re.M)), {})


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_cell_is_on_a_page_that_is_executed(page):
    if "{code-cell}" in TEXTS[page]:
        assert TEXTS[page].startswith("---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n")


@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=range(len(COMMANDS)))
def test_every_command_names_what_exists(module, arguments):
    """The commands themselves run, small, in the tests of their modules."""
    imported = importlib.import_module(module)
    if hasattr(imported, "__path__"):  # a package's command
        imported = importlib.import_module(f"{imported.__name__}.__main__")
    assert hasattr(imported, "main")
    assert imported.__name__.removesuffix(".__main__") == module, "an old name"
    for name, text in re.findall(r"--config=(configs/\w+\.py):?(\S*)", arguments):
        load_config(name, text.replace("OPERATOR", "depthwise").replace("SEED", "0"))
    for name in re.findall(r"configs/sweeps/\w+\.py", arguments):
        assert (ROOT / name).exists() or "NAME" in name, name


@pytest.mark.parametrize("arguments", [text for name, text in COMMANDS if name == "tvconv_jax.export" and "--" in text])
def test_every_export_command_has_the_options_it_needs(arguments):
    export_parser().parse_args(re.sub(r"\[.*?\]| #.*", "", arguments).split())


def test_every_command_of_the_script_exists():
    named = [
        line
        for text in TEXTS.values()
        for line in re.findall(r"(?:^|`)tvconv-jax +([a-z][^#`\n]*)", text, re.MULTILINE)
    ]
    assert named
    for name, *arguments in (line.split() for line in named):
        assert name in COMMANDS_OF_SCRIPT, name
        if name in ("train", "eval", "plan"):
            find_config(next(word for word in arguments if not word.startswith("-")).partition(":")[0])
        if name == "launch" and arguments:
            assert arguments[0] in list_scripts()


def test_every_config_key_exists():
    named = {(page.name, key) for page, text in TEXTS.items() for key in KEY.findall(text)}
    assert named
    assert {(page, key) for page, key in named if key not in KEYS} == set()


def heading(line):
    """What GitHub, and MyST, make of a heading for links to it."""
    return re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")


def test_the_readme_is_two_screens():
    lines = PAGES[0].read_text().splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_and_heading_it_links_to_exists(page):
    text = TEXTS[page]
    named = dict(re.findall(r"^\[([a-z]\w*)\]: (\S+)$", text, re.M))
    assert set(re.findall(r"\]\[([a-z]\w*)\]", text)) == named.keys()
    for target in [*re.findall(r"\]\(([^)]+)\)", text), *named.values()]:
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            if linked.name == "contributing.md":  # which includes it
                linked = ROOT / "CONTRIBUTING.md"
            assert anchor in [heading(line) for line in linked.read_text().splitlines() if line.startswith("#")], target


def test_the_map_names_files_that_exist():
    for path in re.findall(r"`([\w/]+(?:/|\.py|\.md))`", TEXTS[ROOT / "docs" / "design.md"]):
        folder = ROOT if path.startswith(("tests/", "configs/", "docs/", "tvconv_jax/")) else ROOT / "tvconv_jax"
        assert (folder / path).exists(), path


def test_every_script_that_is_named_exists():
    for path in {path for text in TEXTS.values() for path in re.findall(r"\blaunch/[\w.]+\w", text)}:
        assert (ROOT / path).exists(), path
