"""axe-core in a page: what it finds wrong for who uses a screen reader or the keyboard, or sees little."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page

AXE: Final = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"

FIND: Final = """async ([hosts, rules]) => {
  const options = { resultTypes: ["violations"] };
  if (rules) options.runOnly = rules;
  const { violations } = await axe.run(hosts ? { include: hosts } : document, options);
  return violations.flatMap(({ id, nodes }) =>
    nodes.map((node) => `${id}: ${node.target.flat().join(" ")} ${node.failureSummary}`));
}"""


@cache
def source() -> str:
    """The program itself."""
    if not AXE.exists():
        pytest.skip("SKIPPED: axe-core is missing; nobody looks whether all can use the page (npm ci)")
    return AXE.read_text()


def violations(page: Page, hosts: list[str] | None = None, rules: list[str] | None = None) -> list[str]:
    """What breaks a rule, in the whole page or within the elements `hosts` alone."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(source())
    found: list[str] = page.evaluate(FIND, [hosts, rules])
    return found
