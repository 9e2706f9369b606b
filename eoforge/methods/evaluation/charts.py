"""Axes of the charts in reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

COLOURS = {"accent": "#0b6e99", "warm": "#e2932f", "soft": "#5b6875", "line": "#dfe5ea"}
SENSOR = {"s1": "radar", "s2": "optical"}


def chart(count: int, size: tuple[float, float]) -> tuple[Any, npt.NDArray[Any]]:
    """A matplotlib figure of ``count`` axes side by side, ``size`` in inches.

    It has no state of pyplot, so it can be made in server threads.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = np.asarray(drawing.subplots(1, count, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(COLOURS["line"])
        one.tick_params(colors=COLOURS["soft"], labelsize=8)
    return drawing, axes
