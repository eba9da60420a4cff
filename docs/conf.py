"""Configuration of the documentation site; ``make docs`` builds it. Nothing is fetched from the network."""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.domains.python import PyObject

import tvconv_jax

# Pages run on a CPU, with the Python that builds the site, and with no setting or cache of the user's.
BUILD = Path(__file__).parent / "_build"
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # programs compile in half the time, and few of them run for long
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "IPYTHONDIR": str(BUILD / "ipython"),
    "TVCONV_JAX_CACHE": str(BUILD / "cache"),
    "TTY_COMPATIBLE": "0",  # no progress bars
}
KERNEL = BUILD / "ipython" / "profile_default" / "ipython_kernel_config.py"
KERNEL.parent.mkdir(parents=True, exist_ok=True)
KERNEL.write_text('c.IPKernelApp.log_level = "ERROR"\n')

project = "tvconv_jax"
author = "The tvconv_jax authors"
copyright = "The tvconv_jax authors, Apache-2.0"
release = tvconv_jax.__version__
html_title = "tvconv_jax"

extensions = [
    *("myst_nb", "sphinx_copybutton"),
    *("sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"),
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # as code hosts give them
myst_links_external_new_tab = False

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_ipywidgets_js = {}

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_default_options = {"special-members": "__call__"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "default",
    "pygments_dark_style": "github-dark",
}
html_math_renderer = "mathml"


def shorten(app, what, name, obj, options, signature, annotation):
    """Return a signature without ``parent`` and ``name``, which every linen module has, and without long types."""
    if what == "class" and signature:
        signature = re.sub(r"(, |(?<=\())parent: .*\)", ")", signature)
        signature = re.sub(r"<function .*?init>", "...", signature)
        signature = re.sub(r"(Initializer) \| ~collections.abc.Callable\[.*?Any\]", r"\1", signature)
        signature = re.sub(r"~[\w.]+\.(\w+)", r"\1", signature)
    return signature, annotation


def write_math(translator, node):
    """Write a formula as MathML, which browsers draw themselves."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def keep_deviations(app, doctree, docname):
    """Keep a mean and its deviation on one line in tables."""
    for cell in doctree.findall(nodes.entry):
        for text in [text for text in cell.findall(nodes.Text) if " ± " in text]:
            text.parent.replace(text, nodes.Text(text.replace(" ± ", "\u00a0±\u00a0")))


def setup(app):
    app.connect("doctree-resolved", keep_deviations)
    app.connect("autodoc-process-signature", shorten)
    for field in PyObject.doc_field_types:
        field.label = {"variable": "Attributes"}.get(field.name, field.label)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
