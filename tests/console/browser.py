"""A real browser for the tests: Debian's Chromium, pages that fail on errors of their own, axe-core, screenshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "build" / "console-assets" / "axe.min.js"
SCREENSHOTS = ROOT / "build" / "console-screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1360, "height": 900}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
WAIT_MS = 20_000


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium during the block; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("NOT RUN: no Chromium on this machine; tests/run.sh installs it where it may (apt, root)")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium has no sandbox for root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


@contextmanager
def open_page(
    browser: Browser, base: str, *, expected: tuple[str, ...] = (), others: tuple[str, ...] = (), **context: Any
) -> Iterator[Page]:
    """A page of a browser without history; errors of scripts, breaches of the policy and other hosts fail the test.

    Args:
        browser: The browser.
        base: Address of the console.
        expected: Words of errors that the test provokes.
        others: Beginnings of addresses that may be asked besides the console: nothing comes from a foreign server.
        context: Options of the browser's context.
    """
    errors: list[str] = []
    here = (f"{base}/", "data:", "about:", *others)
    made = browser.new_context(base_url=base, reduced_motion="reduce", **({"viewport": DESK} | context))
    made.set_default_timeout(WAIT_MS)
    page = made.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith(here) else errors.append(f"foreign: {asked.url}"))
    try:
        yield page
    finally:
        made.close()
    expected += ("the server responded with a status of",)  # pages of errors are asked for on purpose
    unexpected = [error for error in errors if not any(words in error for words in expected)]
    assert unexpected == [], unexpected


def require_accessible(page: Page) -> None:
    """Asks axe-core; the message of a breach names its rule and element."""
    page.evaluate(AXE.read_text() + "; 0")
    found = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    breaches = [(v["id"], [node["html"][:160] for node in v["nodes"]][:4]) for v in found["violations"]]
    assert len(found["passes"]) > 10, "axe-core looked at hardly anything"
    assert not breaches, "\n".join(map(str, breaches))


def keep(page: Page, name: str) -> None:
    """Screenshot of the whole page, an artifact for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
