"""The site, and the addresses in it. Slow: `make docs`, its links, and its main pages in Chromium, if installed."""

import contextlib
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import tomllib
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import langevin_optax as lgv
from langevin_optax import sampling

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = DOCS / "_build" / "html"
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
ROOMS = {"noise", "preconditioners", "optimizers", "layers", "integrators", "sampling"}
PUBLIC = {
    *(f"langevin_optax.{name}" for name in vars(lgv) if name[0] != "_" and name not in ROOMS),
    *(f"langevin_optax.sampling.{name}" for name in vars(sampling) if name[0] != "_"),
}


def test_every_public_name_is_on_one_page():
    pages = [page.read_text() for page in (DOCS / "api").glob("*.md")]
    described = [name for page in pages for name in re.findall(r"^\.\. auto(?:function|class):: (\S+)$", page, re.M)]
    assert sorted(described) == sorted(PUBLIC)
    listed = []
    for module, names in re.findall(r"currentmodule:: (\S+)\n(.*?)```", (DOCS / "api" / "index.md").read_text(), re.S):
        listed += [f"{module}.{name}" for name in re.findall(r"^   (\w+)$", names, re.M)]
    assert sorted(listed) == sorted(PUBLIC)


def test_every_example_is_in_the_gallery():
    gallery = (DOCS / "gallery.md").read_text()
    links = {DOCS / link for link in re.findall(r"^:link: (\S+)$", gallery, re.M)}
    pages = [*(ROOT / "examples").glob("*/README.md"), *(ROOT / "examples" / "notebooks").glob("*.ipynb")]
    there = {page.with_suffix("") for page in pages} - {ROOT / "examples" / "notebooks" / "README"}
    assert {Path(str(link.parent.resolve())) / link.name for link in links} >= there


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_repository_has_one_address():
    """That of `[project.urls]`, wherever the repository is named: as an address, on Colab, or for pip."""
    owner = urlsplit(REPOSITORY).path.strip("/")
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md"), ROOT / "CITATION.cff"]
    notebooks = [*(ROOT / "examples" / "notebooks").glob("*.ipynb")]
    assert f"repository-code: {REPOSITORY}" in (ROOT / "CITATION.cff").read_text()
    for file in [*pages, *notebooks]:
        named = re.findall(r"github(?:\.com)?/([\w.-]+/langevin_optax)\b", file.read_text(encoding="utf-8"))
        assert {*named} <= {owner}, file
        assert named or file not in notebooks, file


@pytest.mark.slow
def test_the_site():
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {
        page.relative_to(SITE).as_posix(): Page(page) for page in SITE.rglob("*.html") if page.parent.name != "_static"
    }
    assert len(pages) > 30
    nothing_comes_from_elsewhere(pages)
    every_link_leads_somewhere(pages)
    if shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome")):
        with served(SITE) as address, driver() as port:
            for width in (1280, 390):
                with Browser(port, width) as browser:
                    it_looks_right(browser, address, width)


class Page(HTMLParser):
    """The places of a page, its links, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])
        elif tag == "link" and attributes.get("rel") not in ("canonical",):
            self.loaded.add(attributes["href"])
        elif attributes.get("src"):
            self.loaded.add(attributes["src"])


def nothing_comes_from_elsewhere(pages):
    for name, page in pages.items():
        assert not [target for target in page.loaded if re.match(r"(https?:)?//", target)], name
        for target in page.loaded:
            if not target.startswith("data:"):
                assert (SITE / name).parent.joinpath(unquote(urlsplit(target).path)).exists(), (name, target)
    for sheet in SITE.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def every_link_leads_somewhere(pages):
    for name, page in pages.items():
        for link in page.links:
            scheme, host, path, _, anchor = urlsplit(link)
            if scheme or host:
                continue
            target = (SITE / name).parent.joinpath(unquote(path)).resolve() if path else SITE / name
            assert target.exists(), (name, link)
            if anchor and target.suffix == ".html":
                assert unquote(anchor) in pages[target.relative_to(SITE.resolve()).as_posix()].ids, (name, link)


def it_looks_right(browser, address, width):
    """No errors on the console, nothing wider than the screen, pictures and maths to be seen, a search that finds."""
    browser.open(f"{address}/")
    assert browser.address() == f"{address}/docs/index.html"
    for page, maths in MAIN_PAGES.items():
        browser.open(f"{address}/{page}.html")
        errors = [entry["message"] for entry in browser.console() if entry["level"] == "SEVERE"]
        assert not errors, (page, errors)
        assert browser.run("return document.documentElement.scrollWidth") <= width, (page, width)
        assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)"), page
        seen = "e => e.getBoundingClientRect().width > 5 && e.getBoundingClientRect().height > 5"
        assert browser.run(f"return [...document.querySelectorAll('math')].filter({seen}).length") >= maths, page
    browser.open(f"{address}/search.html?q=adlala")
    found = "return [...document.querySelectorAll('#search-results li a')].map(a => a.href)"
    assert eventually(lambda: [link for link in browser.run(found) if link.endswith("#langevin_optax.adlala")])
    assert not [entry for entry in browser.console() if entry["level"] == "SEVERE"]


# And how many formulas each has at least.
MAIN_PAGES = {
    "docs/index": 0,
    "docs/quick_start": 0,
    "docs/which_sigma": 3,
    "docs/which_optimizer": 1,
    "docs/sampling": 0,
    "docs/sharp_bits": 0,
    "docs/gallery": 0,
    "docs/api/index": 1,
    "docs/api/optimizers": 30,
    "docs/api/integrators": 30,
    "docs/api/sampling": 30,
    "examples/README": 0,
    "examples/notebooks/adlala_spirals": 10,
}


def eventually(what, seconds=30):
    end = time.monotonic() + seconds
    while not (result := what()) and time.monotonic() < end:
        time.sleep(0.2)
    return result


@contextlib.contextmanager
def served(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def driver():
    process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        yield next(
            int(port[1]) for line in process.stdout if (port := re.search(r"successfully on port (\d+)\.?$", line))
        )
    finally:
        process.terminate()
        process.communicate()


class Browser:
    """A session of WebDriver, which is JSON over HTTP."""

    def __init__(self, port, width):
        self.base = f"http://127.0.0.1:{port}/session"
        flags = "headless no-sandbox disable-gpu disable-background-networking no-first-run hide-scrollbars"
        options = {"args": [*(f"--{flag}" for flag in flags.split()), f"--window-size={width},900"]}
        if width < 600:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": 844, "pixelRatio": 1}}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/{session['sessionId']}"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.call("DELETE", "")

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, address):
        self.call("POST", "/url", {"url": address})
        eventually(lambda: self.run("return document.readyState") == "complete")

    def address(self):
        eventually(lambda: self.run("return location.pathname") != "/")
        return self.call("GET", "/url")

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def console(self):
        return self.call("POST", "/se/log", {"type": "browser"})
