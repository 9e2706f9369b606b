"""An annotation session of 60 answers in a real browser, against random pairs: ``--out FILE``.

A console runs in a process of its own; Chromium opens its page Annotate and answers by the keys ``s`` and ``d`` as the
label oracle says, until the budget is spent. Random pairs are answered by the same oracle without a browser. Both
sessions of a seed start from the same untrained network, and their last models are compared by mAP@20 of codes on
the validation split. The archive is synthetic: the figures say that the loop works, not how good it is on reBEN.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from eoforge.data.ingest.run import ingest
from eoforge.data.synthetic.archive import generate_archive
from eoforge.methods.anneal.annotations import Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.oracle import LabelOracle
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef, open_table
from eoforge.storage.seaweed import free_ports

START_S, BATCH_S = 120.0, 300.0
ANSWERS = 60
SETTINGS = replace(Config.tiny(), bootstrap=12, batch=12, rounds=4)
"""Found on seeds 0 to 4; larger batches (20, 20, 20) leave too few choices to the model, and random pairs won."""
FIRST_SEED = 10


@contextmanager
def console(**settings: object) -> Iterator[str]:
    """Address of a console in a process of its own, with these settings."""
    (port,) = free_ports(1)
    environment = os.environ | {
        **{f"EOFORGE_{name.upper()}": str(value) for name, value in settings.items()},
        "EOFORGE_REST_PORT": str(port),
        "EOFORGE_DRAIN_NOTICE_SECONDS": "0",
        "EOFORGE_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.console"], env=environment)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            try:
                httpx.get(f"{address}/health/ready", timeout=5.0).raise_for_status()
                break
            except httpx.HTTPError as error:
                if time.monotonic() > end or process.poll() is not None:
                    raise SystemExit(f"the console did not start: {error}") from error
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium has no sandbox for root
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        yield browser
        browser.close()


def oracle_of(table: str, seed: int) -> LabelOracle:
    """The oracle that knows the labels of a table."""
    rows = open_table(table).to_table(columns=["patch_id", "label_mask"]).to_pylist()
    return LabelOracle({row["patch_id"]: row["label_mask"] for row in rows}, SETTINGS.threshold, seed=seed)


def answer_in_browser(page: Page, address: str, oracle: LabelOracle) -> dict[str, Any]:
    """Answers a session until it is finished; seconds from a key to the next pair, without those of a new batch."""
    page.goto(address)
    seconds: list[float] = []
    answers = 0
    while True:
        page.wait_for_selector('#answer, :text("The budget is spent")', timeout=BATCH_S * 1e3)
        if page.query_selector("#answer") is None:
            break
        pair = Pair.of(*(page.input_value(f"#answer [name={name}]") for name in ("first", "second")))
        before = page.input_value("#answer [name=request_id]")
        start = time.perf_counter()
        page.keyboard.press("s" if oracle.similar(pair) else "d")
        page.wait_for_function(
            "before => { const now = document.querySelector('#answer [name=request_id]');"
            " return !now || now.value !== before }",
            arg=before,
            timeout=BATCH_S * 1e3,
        )
        answers += 1
        if page.query_selector("#answer") is not None:
            seconds.append(time.perf_counter() - start)
    seconds.sort()
    return {"answers": answers, "p50_answer_s": round(seconds[len(seconds) // 2], 3)}


def answer_directly(session: AnnotationSession, oracle: LabelOracle) -> None:
    """Answers a session without a page."""
    while session.status().state != "finished":
        for number, pair in enumerate(session.batch("oracle")):
            answer = "similar" if oracle.similar(pair) else "dissimilar"
            session.answer(pair, answer, "oracle", 0.0, f"{session.status().iteration}-{number}")
        session.select_next()


def measure(folder: Path, patches: int, seeds: int, pictures: Path | None) -> dict[str, Any]:
    """Scores of both sessions of each seed."""
    table = str(folder / "patches.lance")
    generate_archive(str(folder / "archive"), patches, seed=3)
    ingest(str(folder / "archive"), table)
    rows = []
    with console(annotations_uri=folder / "sessions") as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            made = {}
            for strategy in ("anneal", "random"):
                config = replace(SETTINGS, strategy=strategy, seed=seed)
                made[strategy] = AnnotationSession.create(
                    str(folder / "sessions" / f"{strategy}-{seed}"), TableRef(table), config
                )
            oracle = oracle_of(table, seed)
            row = {"seed": seed, **answer_in_browser(page, f"{address}/annotate/anneal-{seed}", oracle)}
            made["random"].select_next()
            answer_directly(made["random"], oracle)
            for strategy, session in made.items():
                status = session.status()
                row |= {f"{strategy}_scores": [round(float(one.score or 0), 4) for one in status.rounds]}
                row |= {f"{strategy}_decisions": status.answered}
            rows.append(row)
            print(json.dumps(row), flush=True)
            if pictures is not None:
                page.screenshot(path=pictures / f"finished-{seed}.png", full_page=True)
    last = {s: sum(row[f"{s}_scores"][-1] for row in rows) / len(rows) for s in ("anneal", "random")}
    return {"patches": patches, "answers": ANSWERS, "rows": rows, "mean_last_score": last}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given.patches, given.seeds, given.pictures)
    print(json.dumps(figures["mean_last_score"]))
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
