"""Old names of modules, which go on working for one release: ``import`` and ``python -m`` find the new module."""

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import CodeType, ModuleType
from typing import Any

# A package's row holds for the modules in it, too.
MOVED = {
    "tvconv_jax.analysis": "tvconv_jax.experiments",
    "tvconv_jax.analysis.edge_table": "tvconv_jax.bench.edge_table",
    "tvconv_jax.analysis.export_table": "tvconv_jax.bench.export_table",
    "tvconv_jax.analysis.operator_table": "tvconv_jax.bench.operator_table",
    "tvconv_jax.analysis.plan_table": "tvconv_jax.bench.plan_table",
    "tvconv_jax.analysis.report": "tvconv_jax.report",
    "tvconv_jax.data.picture": "tvconv_jax.data.synthetic.preview",
    "tvconv_jax.layers": "tvconv_jax.nn.layers",
    "tvconv_jax.operators": "tvconv_jax.nn.operators",
    "tvconv_jax.pretrained": "tvconv_jax.convert.torchvision",
    "tvconv_jax.recipes": "tvconv_jax.tasks.configs",
    "tvconv_jax.torch_checkpoint": "tvconv_jax.convert.torch_checkpoint",
    "tvconv_jax.workdir": "tvconv_jax.tasks.workdir",
}
OPERATORS = {
    "attention": ("axial", "sasa"),
    "per_image": ("condconv", "dyconv_dw", "dyconv_pw", "weightnet"),
    "per_pixel": ("ddf", "involution", "tvconv_dynamic"),
    "per_position": ("locally_connected", "tvconv_linear", "tvconv_lowrank"),
}
MOVED |= {
    f"tvconv_jax.operators.{old}": f"tvconv_jax.nn.operators.{new}" for new in OPERATORS for old in OPERATORS[new]
}
FOLDERS = ("tvconv_jax.analysis", "tvconv_jax.operators")  # imported on the way to a module that gets a line


class MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """A finder, and loader, of modules by old names; it prints one line for each."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        new = new_name(fullname)
        if new == fullname or (found := importlib.util.find_spec(new)) is None:
            return None
        package = found.submodule_search_locations is not None
        return importlib.machinery.ModuleSpec(fullname, self, origin=found.origin, is_package=package)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        if spec.name not in FOLDERS:
            print_renamed(spec.name, new_name(spec.name))
        module = importlib.import_module(new_name(spec.name))
        self.kept = module, module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module, which was executed under its new name, its own spec back."""
        module.__spec__ = self.kept[1]
        module.__name__, module.__loader__ = module.__spec__.name, module.__spec__.loader
        module.__package__ = module.__spec__.parent

    def is_package(self, fullname: str) -> bool:
        return importlib.util.find_spec(new_name(fullname)).submodule_search_locations is not None

    def get_source(self, fullname: str) -> str | None:
        return importlib.util.find_spec(new_name(fullname)).loader.get_source(new_name(fullname))

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the new module, for ``python -m OLD``."""
        print_renamed(fullname.removesuffix(".__main__"), new_name(fullname).removesuffix(".__main__"))
        return importlib.util.find_spec(new_name(fullname)).loader.get_code(new_name(fullname))


def new_name(name: str) -> str:
    """Return the new name of a module, or the same name."""
    if name in MOVED:
        return MOVED[name]
    parent, _, last = name.rpartition(".")
    return f"{new_name(parent)}.{last}" if parent else name


@functools.cache
def print_renamed(old: str, new: str) -> None:
    """Print on stderr, once, that a name has a new one."""
    print(f"note: {old} is now {new}; the old name goes with the next release.", file=sys.stderr)


def install() -> None:
    """Let Python find modules by their old names."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedFinder())
