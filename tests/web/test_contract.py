"""What holds the page and the server together, read from their sources."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "crystools_tpu" / "web"


def test_the_page_names_no_other_server() -> None:
    for path in WEB.rglob("*.*"):
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path


def test_no_component_hides_words_where_a_pointer_alone_finds_them() -> None:
    """A `title` opens neither by keyboard nor by touch: `data-tip` does, see tips.js."""
    for path in WEB.rglob("*.js"):
        assert not re.search(r"""\stitle="|setAttribute\([^)]*"title"|svg\("title"\)""", path.read_text()), (
            path
        )


def test_every_colour_that_a_component_reads_is_in_the_theme() -> None:
    defined = set(re.findall(r"(--crystools-[\w-]+):", (WEB / "theme.css").read_text()))
    read = {
        name
        for path in [*WEB.rglob("*.js"), WEB / "style.css"]
        for name in re.findall(r"var\((--crystools-[\w-]+)", path.read_text())
    }
    assert read == defined


def test_the_page_imports_the_components_that_it_shows() -> None:
    shown = set(re.findall(r"<(crystools-\w+)", (WEB / "index.html").read_text()))
    imported = re.findall(r'^import "\./(components/.*)";$', (WEB / "page.js").read_text(), re.MULTILINE)
    texts = "".join((WEB / file).read_text() for file in imported)
    assert shown == set(re.findall(r'customElements\.define\("([\w-]+)"', texts))


def test_the_javascript_is_typed() -> None:
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    node = shutil.which("node")
    if node is None or not compiler.exists():
        pytest.skip("SKIPPED: node or node_modules is missing; the page's types are not checked (npm ci)")
    checked = subprocess.run(
        [node, compiler, "-p", ROOT / "tsconfig.json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
