"""A console on a real port, and what a browser without scripts does: read pages, follow links, send forms."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from eoforge.bundle import write_bundle
from eoforge.data.ingest.run import ingest
from eoforge.data.synthetic.archive import generate_archive
from eoforge.methods.anneal.config import Config
from tests.console.conftest import console_of
from tests.services.support import running

EVIL = "<img src=x onerror=alert(1)>"
SMALL_SESSION = Config(
    epochs=1, batch_size=4, size=30, interpolation="bilinear", backbone="tiny", width=8, bits=16, hidden=16,
    bootstrap=4, batch=4, rounds=3, anchors=16, neighbours=4, strangers=4,
)  # fmt: skip
"""Settings of a session whose batches are chosen in about a second."""


@contextmanager
def console_with(**values: Any) -> Iterator[httpx.Client]:
    """A console with these settings, and a browser that keeps its cookies."""
    consoles = running(console_of(**values))  # type: ignore[arg-type]
    with consoles as run, httpx.Client(base_url=run.rest, timeout=60.0) as client:
        yield client


def csrf_of(answer: httpx.Response) -> dict[str, str]:
    """The session's secret as the field that forms carry; every page has it."""
    found = re.search(r'"x-csrf-token": "([^"]+)"', html.unescape(answer.text))
    assert found is not None, "the page has no secret"
    return {"csrf": found[1]}


def fields_of(answer: httpx.Response, form: str) -> dict[str, str]:
    """Hidden fields of the form with an id."""
    part = re.search(rf'<form id="{form}".*?</form>', answer.text, re.DOTALL)
    assert part is not None, f"the page has no form {form}"
    pairs = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', part[0])
    return {name: html.unescape(value) for name, value in pairs}


def words_of(answer: httpx.Response) -> str:
    """Text of a page without markup, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def refused(answer: httpx.Response, status: int, *words: str) -> str:
    """Text of a page that says what is wrong, names no file, and shows no internals."""
    text = words_of(answer)
    assert answer.status_code == status, text
    assert "Request id" in text
    assert "Traceback" not in text
    assert "/tmp" not in text
    for word in words:
        assert word in text
    return text


def runs_in(root: Path) -> Path:
    """Two bundles in folders of their own below ``runs``, a damaged one, and one beside the folder of runs."""
    for name, bits, score in (("first", 64, 0.5), ("second", 32, 0.75)):
        history = [{"epoch": i, "loss": 2.0 - i, "validation_score": score * i} for i in range(2)]
        write_bundle(
            str(root / "runs" / name),
            weights={"w": torch.ones(2)},
            config={"method": "ss_cm_rsir", "config": {"bits": bits}, "note": EVIL},
            metrics={"validation_score": score, "history": history},
            readme=f"# Model\n{EVIL}\n",
            name="bundle",
            extra_files={"curve.csv": b"epoch,batch,loss\n0,0,3\n0,1,2\n1,0,nan\n"},
        )
    for parent, name in (("runs", "damaged"), ("secret", "bundle")):
        write_bundle(
            str(root / parent), weights={"w": torch.ones(1)}, config={"method": name}, metrics={}, readme="", name=name
        )
    (root / "runs" / "damaged" / "config.json").write_text('{"method": "x"}\n')
    return root


def patches_to_annotate(folder: Path) -> str:
    """A table of 48 patches."""
    generate_archive(str(folder / "archive"), 48, seed=3)
    ingest(str(folder / "archive"), str(folder / "patches.lance"))
    return str(folder / "patches.lance")
