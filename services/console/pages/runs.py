"""Page Runs: run bundles, their curves and figures, and two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse

from eoforge.bundle import (
    CARD,
    POSITION,
    Bundle,
    compare_bundles,
    list_bundles,
    load_bundle,
    read_epochs,
    read_steps,
    scalar_metrics,
    smoothed,
)
from eoforge.bundle.format import PLAIN_NAME
from eoforge.errors import BundleError, DataRefused, NotFound, UsageError
from eoforge.storage.addresses import join, normalise
from services.console.problems import NotConfigured
from services.console.render import finite, page
from services.console.session import caller
from services.console.settings import ConsoleSettings

router = APIRouter(prefix="/runs", dependencies=[Depends(caller)])
SHOWN, POINTS = 200, 1000
"""Bundles in the list, and points of a curve."""

Name = Annotated[str, Query(max_length=1000)]


@router.get("")
def runs(request: Request) -> HTMLResponse:
    """Bundles, newest first."""
    root = _root(request)
    found = [(one.bundle.removeprefix(root).strip("/"), one) for one in list_bundles(root)]
    return page(request, "runs/index.html", bundles=found[:SHOWN], total=len(found))


@router.get("/bundle")
def bundle(request: Request, name: Name) -> HTMLResponse:
    """One bundle."""
    found = _bundle(request, name)
    return page(
        request,
        "runs/bundle.html",
        name=name,
        bundle=found,
        metrics=scalar_metrics(found.metrics),
        config=json.dumps(_without_addresses(found.config), indent=2, sort_keys=True),
        card=found.read(CARD).decode(errors="replace"),
        curves=[chart["title"] for chart in _charts([("", found)])],
    )


@router.get("/curves")
def curves(request: Request, name: Name, other: Annotated[str | None, Query(max_length=1000)] = None) -> JSONResponse:
    """Curves of one bundle, or of two in the same charts, for uPlot."""
    shown = [(name, _bundle(request, name))]
    if other is not None:
        shown.append((other, _bundle(request, other)))
    return JSONResponse({"charts": _charts(shown)})


@router.get("/compare")
def compare(
    request: Request,
    first: Annotated[str, Query(max_length=1000)] = "",
    second: Annotated[str, Query(max_length=1000)] = "",
) -> HTMLResponse:
    """Two bundles side by side."""
    if not first or not second or first == second:
        raise UsageError("a comparison needs two different bundles: choose one in each column of the page Runs")
    one, other = _bundle(request, first), _bundle(request, second)
    return page(
        request,
        "runs/compare.html",
        first=first,
        second=second,
        found=compare_bundles(one, other),
        curves=[chart["title"] for chart in _charts([(first, one), (second, other)])],
    )


def _root(request: Request) -> str:
    settings: ConsoleSettings = request.app.state.settings
    if settings.runs_uri is None:
        raise NotConfigured("this console was given no folder of runs (EOFORGE_RUNS_URI)")
    return normalise(settings.runs_uri)


def _bundle(request: Request, name: str) -> Bundle:
    """Bundle below the folder of runs; its name can lead nowhere else.

    Raises:
        NotFound: There is none of that name.
        DataRefused: It is damaged.
    """
    absent = "there is no run bundle of this name; the page Runs lists them"
    if not all(PLAIN_NAME.fullmatch(part) for part in name.split("/")):
        raise NotFound(absent)
    try:
        return load_bundle(join(_root(request), name), weights=False)
    except NotFound as error:
        raise NotFound(absent) from error
    except BundleError as error:
        raise DataRefused("this run bundle is damaged: its files do not agree with its manifest") from error


def _without_addresses(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are shown: the training table by its name alone."""
    patches = config.get("patches")
    if not isinstance(patches, Mapping):
        return dict(config)
    return {**config, "patches": {**patches, "uri": str(patches.get("uri", "")).rpartition("/")[2]}}


def _charts(shown: list[tuple[str, Bundle]]) -> list[dict[str, Any]]:
    """Charts of steps, then of epochs; each has one curve for each bundle that recorded it."""
    charts: dict[str, dict[str, Any]] = {}
    try:
        for name, one in shown:
            steps = {key: (np.arange(len(v)), smoothed(v)) for key, v in read_steps(one).items() if key not in POSITION}
            epochs = read_epochs(one)
            at = epochs.get("epoch", np.arange(len(next(iter(epochs.values()), ()))))
            every = {key: (at, values) for key, values in epochs.items() if key not in POSITION}
            for unit, columns in (("step", steps), ("epoch", every)):
                for key, (x, y) in columns.items():
                    title = f"{key.replace('_', ' ')}, every {unit}"
                    chart = charts.setdefault(title, {"title": title, "unit": unit, "curves": []})
                    chart["curves"].append({"name": name or key.replace("_", " "), **_thinned(x, y)})
    except BundleError as error:
        raise DataRefused("the curves of this run bundle are damaged") from error
    return list(charts.values())


def _thinned(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> dict[str, list[float | None]]:
    """At most ``POINTS`` points of a curve, evenly spaced, with its last one."""
    at = np.unique(np.linspace(0, max(len(y) - 1, 0), min(len(y), POINTS)).astype(int))
    return {"x": finite(x[at].tolist()), "y": finite(y[at].tolist())}
