"""The site: `make docs`. Its sources are the Markdown files and notebooks of the whole repository, where they lie."""

import sys
import tomllib
from pathlib import Path

import langevin_optax

HERE = Path(__file__).parent
sys.path.append(str(HERE / "_ext"))
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
copyright = author
release = langevin_optax.__version__

extensions = [
    *("sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.githubpages"),
    *("myst_nb", "sphinx_copybutton", "sphinx_design", "mathml", "repository"),
]
root_doc = "docs/index"
include_patterns = [
    *("docs/**.md", "examples/**.md", "examples/notebooks/*.ipynb", "benchmarks/*.md", "CHANGELOG.md"),
]
exclude_patterns = [".*", "results", "tests", "langevin_optax", "docs/_build", "dist", "build"]
nitpicky = True
nitpick_ignore_regex = [("py:exc", r"\w+Error"), ("py:class", "shape=|chains|dtype=bool")]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
html_math_renderer = "mathml"

autodoc_typehints = "none"
autosummary_generate = False
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 90
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "repository_url": PROJECT["urls"]["Repository"],
    "use_repository_button": True,
    "use_download_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
}
