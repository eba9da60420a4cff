"""What the README shows runs; what it names exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^(?:launch/cpu_env.sh )?python -m (tvconv_jax\S*)(.*)$", README, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_runs(example):
    exec(compile(example, "README.md", "exec"), {})


@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=range(len(COMMANDS)))
def test_every_command_names_what_exists(module, arguments):
    """The commands themselves run, small, in the tests of their modules."""
    imported = importlib.import_module(module)
    if hasattr(imported, "__path__"):  # a package's command
        imported = importlib.import_module(f"{module}.__main__")
    assert hasattr(imported, "main")
    for name, text in re.findall(r"--config=(configs/\w+\.py):?(\S*)", arguments):
        scope = {}
        exec(compile((ROOT / name).read_text(), name, "exec"), scope)
        scope["get_config"](text)


def test_every_file_it_links_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
