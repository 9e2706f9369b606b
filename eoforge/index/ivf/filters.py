"""Filter of a search in the language of Lance, over the columns of ``table.py``."""

from __future__ import annotations

from datetime import UTC, datetime

from eoforge.data.search_filter import SearchFilter
from eoforge.data.tables.schema import sql_list


def condition(wanted: SearchFilter | None, sensor: str) -> str:
    """Condition on the rows of a sensor that pass a filter; equal in meaning to ``cache/columns.py``."""
    wanted = wanted or SearchFilter()
    parts = [f"modality = '{sensor}'"]
    parts += [
        f"{column} IN ({sql_list(values)})"
        for column, values in (("country", wanted.countries), ("split", wanted.splits))
        if values
    ]
    parts += [
        f"{function}(labels, [{sql_list(values)}])"
        for function, values in (("array_has_any", wanted.labels_any), ("array_has_all", wanted.labels_all))
        if values
    ]
    if wanted.bbox is not None:
        west, south, east, north = wanted.bbox
        between = "AND" if west <= east else "OR"
        parts.append(f"(lon_max >= {west!r} {between} lon_min <= {east!r})")
        parts.append(f"lat_max >= {south!r} AND lat_min <= {north!r}")
    if wanted.acquired_from is not None:
        parts.append(f"acquired_s2 >= {_moment(wanted.acquired_from)}")
    if wanted.acquired_until is not None:
        parts.append(f"acquired_s2 < {_moment(wanted.acquired_until)}")
    if wanted.exclude_snow:
        parts.append("contains_seasonal_snow = false")
    if wanted.exclude_cloud:
        parts.append("contains_cloud_or_shadow = false")
    return " AND ".join(parts)


def _moment(time: datetime) -> str:
    return f"timestamp '{time.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%S.%fZ')}'"
