"""Weights and times of the console's pages in a real browser: ``--out FILE``.

A console and a retrieval service run in processes of their own over a small synthetic archive; Chromium, which shares
the machine's cores, opens each page with an empty cache and again with a full one. Bytes are those on the wire: pages
are not compressed, because their length could tell the secret of their forms; scripts and styles are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from benchmarks.services.across import HUB, archives, serve
from benchmarks.services.calls import process_of
from benchmarks.services.console_annotate import chromium, console
from eoforge.data.loading.batch import PatchFilter, select_rows
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef, open_table

PATCHES, VISITS, SEARCHES = 100, 7, 20


def visit(browser: Browser, address: str, path: str) -> dict[str, Any]:
    """Bytes by kind of one page at its first visit, and its median times."""
    context = browser.new_context(base_url=address)
    page = context.new_page()
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    kinds: dict[str, str] = {}
    received: Counter[str] = Counter()
    wire.on("Network.responseReceived", lambda found: kinds.update({found["requestId"]: found["type"]}))
    wire.on(
        "Network.loadingFinished",
        lambda found: received.update({kinds.get(found["requestId"], "Other"): int(found["encodedDataLength"])}),
    )
    first = _load(page, path)
    page.wait_for_load_state("networkidle")
    weights = {f"{kind.lower()}_bytes": size for kind, size in sorted(received.items())}
    again = [_load(page, path) for _ in range(VISITS)]
    context.close()
    names = ("response_ms", "ready_ms")
    return {
        "path": path.partition("?")[0],
        **weights,
        **{f"first_{name}": value for name, value in zip(names, first, strict=True)},
        **{
            f"p50_{name}": statistics.median(values)
            for name, values in zip(names, zip(*again, strict=True), strict=True)
        },
    }


def _load(page: Page, path: str) -> tuple[float, float]:
    """Milliseconds until the page had come, and until its scripts had run."""
    page.goto(path, wait_until="load")
    found = page.evaluate(
        "(({responseEnd, domContentLoadedEventEnd, startTime}) => [responseEnd, domContentLoadedEventEnd]"
        ".map(at => Math.round(10 * (at - startTime)) / 10))(performance.getEntriesByType('navigation')[0])"
    )
    return found[0], found[1]


def search(browser: Browser, address: str, names: list[str]) -> dict[str, Any]:
    """Milliseconds from Enter to the first hit on the page, of searches one after the other."""
    page = browser.new_page(base_url=address)
    page.goto("/search")
    times = []
    for name in names:
        page.locator("#patch_id").fill(name)
        start = time.perf_counter()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"li.hit.query[data-name='{name}']")
        times.append(1e3 * (time.perf_counter() - start))
    page.close()
    return {
        "first_ms": round(times[0], 1),
        "p50_ms": round(statistics.median(times), 1),
        "most_ms": round(max(times), 1),
    }


def measure(folder: Path, patches: int) -> dict[str, Any]:
    """Figures of all pages."""
    codes = archives(folder, patches, [HUB])[HUB]
    table = str(folder / HUB / "patches.lance")
    session = AnnotationSession.create(str(folder / "sessions" / "coast"), TableRef(table), Config.tiny())
    session.select_next()
    dataset = open_table(table)
    rows = select_rows(dataset, PatchFilter())[:SEARCHES]
    names = dataset.take(rows.tolist(), columns=["patch_id"])["patch_id"].to_pylist()
    found = (f"/search?patch_id={names[0]}", f"/patch/{names[0]}")
    paths = ("/search", *found, "/archive", "/runs", "/annotate", "/annotate/coast")
    settings = {"patches_uri": table, "runs_uri": folder / "runs", "annotations_uri": folder / "sessions"}
    with (
        process_of(serve, {"codes_uri": codes}) as target,
        console(retrieval_target=target(), **settings) as address,
        chromium() as browser,
    ):
        pages = [visit(browser, address, path) for path in paths]
        searches = search(browser, address, names)
    return {"patches": patches, "pages": pages, "searches": searches}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=PATCHES)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given.patches)
    for row in figures["pages"]:
        print(json.dumps(row))
    print(json.dumps(figures["searches"]))
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
