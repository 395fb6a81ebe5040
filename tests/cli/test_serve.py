"""`serve` as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crystools_tpu.cli import main
from crystools_tpu.open_pages import Page, open_page
from crystools_tpu.page import Address

ROOT = Path(__file__).parents[2]


@contextmanager
def served(temporary: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The command running, with the page's and the metrics' address that it printed."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "pipelines", "exporters"))
    with subprocess.Popen(
        [sys.executable, "-m", "crystools_tpu", "serve", "--port", "0", *options],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            page = process.stdout.readline().split()[-1]
            metrics = process.stdout.readline().split()[-1]
            yield process, page, metrics
        finally:
            process.kill()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_simulated_machine_is_served_and_leaves_nothing_behind(tmp_path: Path, end: signal.Signals) -> None:
    with served(tmp_path, "--simulate", "v6e-8") as (process, page, metrics):
        health = json.loads(get(page + "api/health"))
        assert health["simulated"] == "v6e-8"
        assert f":{health['port']}/" in page
        devices = json.loads(get(page + "api/devices"))
        assert [chip["chip"] for chip in devices["chips"]] == [f"tpu{i}" for i in range(8)]
        assert devices["simulated"] is True
        assert open_page() == Page(page, needs_token=False)
        samples = [line for line in get(metrics).splitlines() if not line.startswith("#")]
        assert all('simulated="v6e-8"' in sample for sample in samples)
        process.send_signal(end)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert open_page() is None
    assert list(tmp_path.iterdir()) == []


def test_this_machine_is_served_unmarked(tmp_path: Path) -> None:
    with served(tmp_path) as (_, page, metrics):
        assert json.loads(get(page + "api/health"))["simulated"] is None
        text = get(metrics)
        assert "simulated=" not in text
        assert re.search(r"^crystools_tpu_host_memory_total_bytes [1-9]", text, re.MULTILINE)


def test_a_token_in_a_file_is_asked_for_and_not_printed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with served(tmp_path, "--simulate", "v6e-1", "--token-file", str(token)) as (_, page, metrics):
        assert "secret" not in page
        assert open_page() == Page(page, needs_token=True)
        assert "crystools_tpu_build_info" in get(f"{metrics}?token=secret")
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            get(metrics)
        refused.value.close()


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("127.0.0.1", "http://127.0.0.1:8189/crystools-tpu/?token=a%20b%26c%2F%C3%A9"),
        ("::1", "http://[::1]:8189/crystools-tpu/?token=a%20b%26c%2F%C3%A9"),
        ("0.0.0.0", "http://localhost:8189/crystools-tpu/?token=a%20b%26c%2F%C3%A9"),
        ("::", "http://localhost:8189/crystools-tpu/?token=a%20b%26c%2F%C3%A9"),
    ],
)
def test_the_address_that_is_printed_can_be_opened(host: str, page: str) -> None:
    address = Address(host, 8189, "a b&c/é", "http")
    assert address.url == page
    assert address.metrics_url == page.partition("/crystools-tpu")[0] + "/metrics"


def test_on_every_address_it_answers_at_both_kinds_and_says_so(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("SKIPPED: no IPv6 here; --host :: is not tested")
    options = ("--simulate", "v6e-1", "--host", "::", "--token", "s&c/t é")
    with served(tmp_path, *options) as (process, page, metrics):
        assert process.stdout is not None
        assert process.stdout.readline() == "for other machines, put this one's name in place of localhost\n"
        health = page.replace("?", "api/health?")
        assert json.loads(get(health))["host"] in ("127.0.0.1", "::1")
        assert json.loads(get(health.replace("localhost", "127.0.0.1")))["host"] == "127.0.0.1"
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            get(metrics)
        refused.value.close()


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"port {port} on 127.0.0.1 is in use: choose another, or port 0 for a free one" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "-1"], "--rate: interval_seconds must be from 0.1 to 60"),
        (["--simulate", "v99-8"], "--simulate: "),
        (
            ["--price-per-chip-hour", "free"],
            "--price-per-chip-hour: 'free' is no price: give a number above 0",
        ),
        (["--token", ""], "--token: is empty; give a secret, or leave the option out"),
        (["--token", "  "], "--token: is empty; give a secret, or leave the option out"),
        (["--token", "a\udce9b"], "--token: has a character that cannot be typed; give printable text"),
        (["--token", "a\nb"], "--token: has a character that cannot be typed; give printable text"),
    ],
)
def test_a_bad_option_is_one_line(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["serve", "--port", "0", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
