"""The documentation site: the build hooks, the checker, and the site itself in a browser (marker ``notebooks``)."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts import check_site, docs_hooks, notebook_pages

ROOT = Path(__file__).resolve().parents[2]


# ---- what the build adds --------------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation_once() -> None:
    there = ["index.md", "howto/index.md", "howto/a.md", "howto/b.md", "reference/cli.md", "reference/new.md", "evaluation.md", "odd.md"]
    sections = {title: pages for section in docs_hooks.navigation(there) for title, pages in section.items()}
    assert sections["Home"] == "index.md"
    assert sections["How-to"] == ["howto/index.md", "howto/a.md", "howto/b.md"]
    assert sections["Reference"] == ["reference/cli.md", "reference/new.md"]
    assert sections["Explanation"] == "evaluation.md"  # in the parent folder, named by its section
    assert sections["About"] == "odd.md"
    assert "Notebooks" not in sections
    placed = [page for pages in sections.values() for page in ([pages] if isinstance(pages, str) else pages)]
    assert sorted(placed) == sorted(there)


@pytest.mark.parametrize(
    ("link", "source", "uri", "link_of_site"),
    [
        ("[a](docs/tour.md)", "README.md", "index.md", "[a](tour.md)"),
        ("[a](docs/evaluation.md#columns)", "README.md", "index.md", "[a](evaluation.md#columns)"),
        ("![a](docs/img/trace.png)", "README.md", "index.md", "![a](img/trace.png)"),
        ("[a](../benchmarks/RESULTS.md)", "docs/deployment.md", "deployment.md", "[a](benchmarks/results.md)"),
        ("[a](../../notebooks/01_x.ipynb)", "docs/howto/x.md", "howto/x.md", "[a](../notebooks/01_x.md)"),
        ("[`cli.py`](../stir_core/cli.py)", "docs/architecture.md", "architecture.md", "`cli.py`"),
        ("[a](https://arxiv.org/abs/2602.04925)", "README.md", "index.md", "[a](https://arxiv.org/abs/2602.04925)"),
        ("[a](#here)", "README.md", "index.md", "[a](#here)"),
        ("[a](docs/no-such.md)", "README.md", "index.md", "[a](no-such.md)"),  # the build refuses it
    ],
)  # fmt: skip
def test_links_of_the_repository_become_links_of_the_site(link: str, source: str, uri: str, link_of_site: str) -> None:
    assert docs_hooks.with_links(f"See {link}.", source, uri) == f"See {link_of_site}."


def test_links_in_code_are_not_changed() -> None:
    code = "```python\nx[0](docs/tour.md)\n```\n[a](docs/tour.md)"
    assert docs_hooks.with_links(code, "README.md", "index.md") == "```python\nx[0](docs/tour.md)\n```\n[a](tour.md)"


def test_a_drawing_is_inlined_with_its_text() -> None:
    image = '<p><img alt="The house" src="img/drawings/house.svg" /></p>'
    page = docs_hooks.DRAWING.sub(lambda match: docs_hooks.drawing(match[1], ROOT / "docs" / "img" / match[2]), image)
    assert page.startswith('<p><svg role="img" aria-label="The house" class="drawing"')
    assert "<img" not in page and "data-room" in page


def test_docstring_roles_are_removed() -> None:
    assert docs_hooks.ROLE.sub(r"\1", "what :func:<code>~export_library</code> wrote") == "what <code>export_library</code> wrote"


def notebook(tmp_path: Path, *cells: dict) -> Path:
    path = tmp_path / "01_x.ipynb"
    path.write_text(json.dumps({"cells": list(cells)}), "utf-8")
    return path


def code_cell(source: str, *outputs: dict) -> dict:
    return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    table = {"output_type": "execute_result", "data": {"text/html": ["<style>x</style><table>\n", "<td>1</td></table>"], "text/plain": "1"}}
    image = {"output_type": "display_data", "data": {"image/png": "aGk=\n", "text/plain": ["<Figure>"]}}
    text = {"output_type": "stream", "name": "stdout", "text": ["a\n", "```\n"]}
    page = notebook_pages.page_of(
        notebook(tmp_path, {"cell_type": "markdown", "source": ["# 01 X\n", "words"]}, code_cell("print(1)", text, table, image))
    )
    assert page.startswith("# 01 X\nwords\n\n*This page is [`01_x.ipynb`](01_x.ipynb)")
    assert "```python\nprint(1)\n```" in page
    assert "````{.text .output}\na\n```\n````" in page  # a longer fence than the one printed
    assert '<div class="output"><table><td>1</td></table></div>' in page
    assert 'src="data:image/png;base64,aGk="' in page and 'alt="&lt;Figure&gt;"' in page


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ({"output_type": "error", "ename": "ValueError"}, "holds an error"),
        ({"output_type": "display_data", "data": {"text/html": "<SCRIPT src=x></SCRIPT>"}}, "holds a script"),
        ({"output_type": "display_data", "data": {"application/vnd.plotly.v1+json": {}}}, "cannot show"),
    ],
)
def test_an_output_that_cannot_be_shown_is_refused(tmp_path: Path, output: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        notebook_pages.page_of(notebook(tmp_path, code_cell("1", output)))


# ---- the checker ------------------------------------------------------------------------------------------------------------

GOOD = '<html><head><link rel="stylesheet" href="a.css"><link rel="canonical" href="https://x.org/"></head><body id="top">{}</body></html>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.css").write_text("a { background: url(data:image/png;base64,aGk=) }", "utf-8")
    (tmp_path / "b.html").write_text(GOOD.format('<h2 id="there">x</h2>'), "utf-8")
    (tmp_path / "sub" / "index.html").write_text(GOOD.format("").replace("a.css", "../a.css"), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            '<a href="b.html#there">x</a><a href="#top">x</a><a href="sub/">x</a><a href="https://x.org">x</a><a href="mailto:x@y">x</a>',
            None,
        ),
        ('<img src="data:image/png;base64,aGk=">', None),
        ('<img src="c.png">', "c.png is not there"),
        ('<script src="/b.html"></script>', "is absolute"),
        ('<img src="../../b.html">', "is not there"),
        ('<img src="https://x.org/a.png">', "asks https://x.org/a.png"),
        ('<script src="//cdn.x.org/a.js"></script>', "asks //cdn.x.org/a.js"),
        ('<link rel="stylesheet" href="https://fonts.x.org/css">', "asks https://fonts.x.org/css"),
        ('<link rel="preconnect" href="https://fonts.x.org">', "asks https://fonts.x.org"),
        ("<style>@import 'https://x.org/a.css';</style>", "asks https://x.org/a.css"),
        ('<p style="background: url(https://x.org/a.png)">', "asks https://x.org/a.png"),
        ('<img srcset="b.html 1x, https://x.org/a.png 2x">', "asks https://x.org/a.png"),
        ('<span class="arithmatex">x</span>', "an equation that was not set"),
    ],
)
def test_the_checker_reports_problems(site: Path, body: str, what: str | None) -> None:
    (site / "index.html").write_text(GOOD.format(body), "utf-8")
    problems = list(check_site.problems(site))
    assert problems == [] if what is None else (len(problems) == 1 and what in problems[0]), problems


def test_the_checker_reads_style_sheets(site: Path) -> None:
    (site / "a.css").write_text("@font-face { src: url('https://x.org/a.woff2') }", "utf-8")
    assert list(check_site.problems(site)) == ["a.css asks https://x.org/a.woff2 for something"]


@pytest.mark.notebooks
@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("[a](gone.md)", "gone.md"),
        ("[a](other.md#gone)", "does not contain an anchor '#gone'"),
        ("[a](#gone)", "there is no such anchor"),
        ("[a](/other.md)", "absolute link"),
        ("![a](gone.png)", "gone.png"),
        ("[a](other.md#there)", ""),
    ],
)
def test_mkdocs_refuses_a_link_that_leads_nowhere(tmp_path: Path, link: str, why: str) -> None:
    """Uses the site's own ``validation`` settings on a site of two pages."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed: run make docs")
    rules = re.search(r"^validation:\n(?: .*\n)+", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert rules
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\nstrict: true\ntheme: mkdocs\nplugins: []\n{rules[0]}", "utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## There\n", "utf-8")
    (tmp_path / "docs" / "index.md").write_text(f"# x\n\n{link}\n", "utf-8")
    env = dict(os.environ, NO_MKDOCS_2_WARNING="1")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) is (why == "") and why in done.stderr, done.stderr


# ---- the site itself ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed: run make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = dict(os.environ, NO_MKDOCS_2_WARNING="1", HF_HUB_OFFLINE="1")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without logging."""

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def address(built: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.notebooks
def test_the_site_has_no_problems(built: Path) -> None:
    assert list(check_site.problems(built)) == []
    api = (built / "reference" / "api.html").read_text("utf-8")
    assert 'id="stir_core.steer"' in api and "log-probabilities are in nats" in api
    said = api.split('id="stir_core.open_run"')[1].split("Raises:")[0].split("Returns:")[1]
    assert said.count("<li") == 1, "what is returned is told in one piece, however many lines it takes"


@pytest.mark.notebooks
@pytest.mark.timeout(300)
def test_a_browser_loads_nothing_from_other_hosts_and_search_works(address: str, built: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    pages = [
        "index.html",
        "architecture.html",
        "reference/api.html",
        "reference/cli.html",
        "reference/formats.html",
        "explanation/algorithm.html",
    ]
    with playwright.sync_playwright() as driver:
        if not os.environ.get("STIR_CHROMIUM") and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no browser: name one with STIR_CHROMIUM")
        browser = driver.chromium.launch(executable_path=os.environ.get("STIR_CHROMIUM") or None, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        for name in pages:
            page.goto(address + name)
            playwright.expect(page.locator("h1").first).to_be_visible()
        search(page)
        page.goto((built / "reference" / "cli.html").as_uri())  # opened as a file, where workers cannot start
        search(page)
        browser.close()
    assert [url for url in asked if not url.startswith((address, built.as_uri(), "data:", "blob:"))] == []
    assert said == []


def search(page: Any) -> None:
    """Search until there is a result: text typed before the index is loaded is not searched."""
    from playwright.sync_api import TimeoutError, expect

    box, result = page.locator("input[name=query]"), page.locator(".md-search-result__link").first
    for _ in range(8):
        box.fill("")
        box.press_sequentially("logit lens", delay=30)
        try:
            result.wait_for(timeout=5_000)
            break
        except TimeoutError:
            continue
    expect(result).to_be_visible()
