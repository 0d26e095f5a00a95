"""The site is the repository's Markdown and notebooks where they lie: what their links and pictures become."""

import base64
import json
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform


class Links(SphinxTransform):
    """A link to a file that is no page leads to the repository; a picture from elsewhere becomes its text."""

    default_priority = 600

    def apply(self):
        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(addnodes.download_reference)):
            self.to_the_repository(link, here / link["reftarget"])
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link["refdomain"] == "doc" and link["reftarget"] not in self.env.found_docs:
                self.to_the_repository(link, Path(self.env.srcdir, f"{link['reftarget']}.md"))
            elif link["reftype"] == "myst" and (here / link["reftarget"]).is_dir():
                self.to_the_repository(link, here / link["reftarget"])
        for image in list(self.document.findall(nodes.image)):
            if "://" in image["uri"]:
                image.replace_self(nodes.Text(image.get("alt", "")))

    def to_the_repository(self, link, file):
        path = quote(file.resolve().relative_to(Path(self.env.srcdir).resolve()).as_posix())
        address = f"{self.config.html_theme_options['repository_url']}/blob/main/{path}"
        link.replace_self(nodes.reference("", "", *link.children, refuri=address, internal=False))


def _of_the_package(app, env, node, contnode):
    """`fold_in` in a docstring of a room below means that of the package."""
    if node.get("refdomain") == "py" and "." not in node["reftarget"]:
        node["reftarget"] = f"langevin_optax.{node['reftarget']}"
        domain = env.get_domain("py")
        args = (env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, contnode)
        return domain.resolve_xref(*args)


def _returns_have_no_type(app, what, name, obj, options, lines):
    """Napoleon takes what stands before the first colon of a return value for its type: it gets an empty one."""
    for i, line in enumerate(lines[:-1]):
        if line.strip() == "Returns:":
            indent = len(lines[i + 1]) - len(lines[i + 1].lstrip())
            lines[i + 1] = f"{' ' * indent}: {lines[i + 1].lstrip()}"


def _thumbnails(app):
    """The last picture of each notebook, for the gallery."""
    folder = Path(app.confdir) / "_build" / "thumbnails"
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in (Path(app.srcdir) / "examples" / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        pictures = [outputs["image/png"] for outputs in data if "image/png" in outputs]
        (folder / f"{notebook.stem}.png").write_bytes(base64.b64decode(pictures[-1]))


def _front_door(app, exception):
    """Pages lie where their sources do, and the first of them is not in the uppermost folder."""
    if exception is None and app.builder.name == "html":
        page = f"{app.config.root_doc}.html"
        html = f'<!doctype html><meta http-equiv="refresh" content="0; url={page}"><a href="{page}">{page}</a>\n'
        (Path(app.outdir) / "index.html").write_text(html, encoding="utf-8")


def setup(app):
    app.add_transform(Links)
    app.connect("autodoc-process-docstring", _returns_have_no_type, priority=400)
    app.connect("missing-reference", _of_the_package)
    app.connect("builder-inited", _thumbnails)
    app.connect("build-finished", _front_door)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
