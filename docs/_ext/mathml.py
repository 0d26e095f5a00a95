"""Renders maths as MathML when the site is built, so that no page loads a script or a font for it."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def _mathml(latex, display):
    mathml = convert(" ".join(latex.split()).replace(r"\_", "_"), display=display)  # it keeps the backslash in \text
    if re.search(r"\\|&[^#a-z]", mathml):
        LOGGER.warning("a part of this formula was not understood: %s", latex)
    return mathml


def _inline(self, node):
    latex = node.astext()
    kind = "math-inline long" if len(latex) > 40 else "math-inline"
    self.body.append(f'<span class="{kind}">{_mathml(latex, "inline")}</span>')
    raise SkipNode


def _block(self, node):
    lines = re.split(r"\n\s*\n", node.astext().strip())
    latex = r"\\".join(lines)
    if len(lines) > 1 or re.search(r"(?<!\\)&|\\\\", latex):  # as Sphinx does it for LaTeX
        latex = rf"\begin{{align*}}{latex}\end{{align*}}"
    self.body.append(f'<div class="math-block">{_mathml(latex, "block")}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
