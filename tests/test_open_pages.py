"""Which pages are open on this machine: found by others as long as their processes live."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crystools_tpu.open_pages import PAGES, Page, announced, open_page

ROOT = Path(__file__).parents[1]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"CRYSTOOLS_TPU_DATA_DIR": str(tmp_path)}


@pytest.fixture
def url() -> Iterator[str]:
    """Of a page behind which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/crystools-tpu/"


def files(environ: dict[str, str]) -> list[Path]:
    return sorted((Path(environ["CRYSTOOLS_TPU_DATA_DIR"]) / PAGES).glob("*"))


def test_a_page_is_found_while_it_is_open(environ: dict[str, str], url: str) -> None:
    assert open_page(environ) is None
    with announced(url, environ):
        assert open_page(environ) == Page(url, needs_token=False)
    assert open_page(environ) is None
    assert files(environ) == []


def test_the_newest_that_answers_is_the_one(environ: dict[str, str], url: str) -> None:
    pages = [Page(f"http://localhost:{port}/", needs_token=False) for port in (1, 2, 3)]
    with announced(pages[0].url, environ), announced(pages[1].url, environ), announced(pages[2].url, environ):
        for page, moment in zip(pages, (30, 20, 10), strict=True):
            (file,) = [file for file in files(environ) if page.url in file.read_text()]
            os.utime(file, (moment, moment))
        assert open_page(environ, answers=lambda url: True) == pages[0]
        assert open_page(environ, answers=lambda url: url != pages[0].url) == pages[1]
        assert open_page(environ) is None, "nobody listens on any of these"


def test_a_token_is_asked_for_and_in_no_file(environ: dict[str, str], url: str) -> None:
    with announced(f"{url}?token=secret", environ):
        found = open_page(environ)
        (file,) = files(environ)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "secret" not in file.read_text()
    assert found is not None
    assert found.text == f"{url} (with the token that it was started with)"


CHILD = """
import sys, time
from crystools_tpu.open_pages import announced

with announced(sys.argv[1]):
    print("announced", flush=True)
    time.sleep(60)
"""


def test_the_page_of_a_process_that_was_killed_is_none_and_its_file_goes(
    environ: dict[str, str], url: str
) -> None:
    command = [sys.executable, "-c", CHILD, url]
    with subprocess.Popen(
        command, env={**os.environ, **environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"announced\n"
        assert open_page(environ) == Page(url, needs_token=False)
        child.send_signal(signal.SIGKILL)
    assert len(files(environ)) == 1
    assert open_page(environ) is None
    assert files(environ) == []


def test_a_page_of_another_machine_that_shares_the_home_is_none_of_ours(
    environ: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with announced(url, environ):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(socket, "gethostname", lambda: "another-host")
            assert open_page(environ) is None
        assert open_page(environ) is not None


def test_what_another_machine_left_stays_for_a_month(environ: dict[str, str], url: str) -> None:
    folder = Path(environ["CRYSTOOLS_TPU_DATA_DIR"]) / PAGES
    folder.mkdir()
    left = folder / "left.json"
    left.write_text(json.dumps({"host": "another-host", "url": url, "needs_token": False}))
    assert open_page(environ) is None
    assert files(environ) == [left]
    os.utime(left, (0, 0))
    with announced(url, environ):
        assert left not in files(environ)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', "[" * 60_000])
def test_a_file_that_is_none_is_passed_over(environ: dict[str, str], url: str, text: str) -> None:
    with announced(url, environ):
        (files(environ)[0].parent / "odd.json").write_text(text)
        (files(environ)[0].parent / "folder.json").mkdir()
        assert open_page(environ) is not None


def test_where_no_file_can_be_written_nobody_is_told_and_nothing_fails(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").write_text("")
    environ = {"CRYSTOOLS_TPU_DATA_DIR": str(tmp_path / "file" / "data")}
    with announced(url, environ):
        assert open_page(environ) is None


def test_without_a_history_a_page_shows_no_other_process_and_a_run_is_on_none(
    environ: dict[str, str], url: str
) -> None:
    off = {**environ, "CRYSTOOLS_TPU_HISTORY": "off"}
    with announced(url, off):
        assert files(environ) == []
    with announced(url, environ):
        assert open_page(off) is None
