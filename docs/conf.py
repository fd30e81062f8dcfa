"""The documentation site: `sphinx-build -W -c docs . build/site`, from the checkout.

The sources are the Markdown files as they are, so the source folder is the repository itself: a
relative link means the same here and on GitHub.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy.typing
from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref

# As a name in signatures, not as the union that it stands for; before the package is imported.
numpy.typing.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})  # type: ignore

project = "spectroscope"
copyright = "The spectroscope developers"  # Sphinx's name for it
release = metadata.version("relu-spectroscope")
html_title = f"spectroscope {release}"

extensions = [
    "myst_nb",  # Markdown, and notebooks with the outputs that they were saved with
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "docs/index"
include_patterns = ["docs/**", "examples/*.ipynb", "CONTRIBUTING.md", "CHANGELOG.md"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
myst_fence_as_directive = ["math"]  # GitHub's fence of a formula
nb_execution_mode = "off"  # the tests run the notebooks

# What the docstrings have in single backquotes is code, and a link where it is a name of the API.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    # Other packages' types: links to them would need the network.
    (
        "py:.*",
        r"(torch|numpy|pandas|matplotlib|xarray|lightning|collections|datetime|os|pathlib)\b.*",
    ),
    # Annotations of `Specimen`, which are strings: they need no torch.
    ("py:class", r"Tensor|nn\.Module|NDArray|np\.float64|Batch|ChannelAxis|TimeAxis"),
    ("py:class", r".*\.T|.*\.Recording"),  # a type variable; the plain data of a report
]
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True


def _mathml(writer: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers typeset without a script."""
    is_block = node.tagname == "math_block"
    formula = tex2mathml(node.astext(), as_block=is_block)
    writer.body.append(f'<div class="formula">{formula}</div>' if is_block else formula)
    raise SkipNode


def _without_folders(app: Any, doctree: Any) -> None:
    """Replace links to folders of the repository, which have no page, by their text."""
    for link in list(doctree.findall(pending_xref)):
        here = Path(doctree["source"]).parent
        if link["reftype"] == "myst" and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def _unqualified(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve `Report.dc()`, the name that users know, as `spectroscope.Report.dc()`."""
    kind, name = node["reftype"], node["reftarget"]
    if node.get("refdomain") != "py" or name.startswith(("spectroscope.", ".")):
        return None
    full, domain = f"spectroscope.{name}", env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, kind, full, node, content)


def _front_page(app: Any, exception: Exception | None) -> None:
    page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">'
    Path(app.outdir, "index.html").write_text(page, "utf-8")


def setup(app: Any) -> None:
    """Register what Sphinx has no setting for."""
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))
    app.connect("doctree-read", _without_folders)
    app.connect("missing-reference", _unqualified)
    app.connect("build-finished", _front_page)


html_math_renderer = "mathml"
