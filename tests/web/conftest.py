"""A real browser, and pages in it that may not complain, nor talk to anybody but the server under test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.web.scenes import Scene

CHROMIUM: Final = Path("/usr/bin/chromium")
CHROMIUM_ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A reconnecting page may say so on the console; nothing else may be said there.
HARMLESS: Final = re.compile("WebSocket connection to|net::ERR_(CONNECTION|EMPTY_RESPONSE)")

OpenPage = Callable[..., Page]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"SKIPPED: no browser at {CHROMIUM}; the page is not tested (apt-get install chromium)")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A scene that has not started: tell its machine what to say first."""
    made = Scene()
    yield made
    made.stop()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens a scene's page in a browser profile of its own; options are those of a playwright context."""
    complaints: list[str] = []
    strangers: list[str] = []
    opened: list[Page] = []

    def open_(scene: Scene, **options: Any) -> Page:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        page = browser.new_context(**options).new_page()
        opened.append(page)

        def note_request(request: Request) -> None:
            if urlsplit(request.url).netloc != urlsplit(scene.url).netloc:
                strangers.append(request.url)

        def note_console(message: ConsoleMessage) -> None:
            if not HARMLESS.search(message.text):
                complaints.append(message.text)

        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", note_console)
        page.on("request", note_request)
        page.goto(scene.url)
        return page

    yield open_
    for page in opened:
        page.context.close()
    assert complaints == []
    assert strangers == []
