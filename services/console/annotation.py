"""Annotation sessions of the console: where they lie, who answers, and what a posted answer says."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Query, Request
from pydantic import BaseModel, Field

from eoforge.errors import DamagedObject, DataRefused, NotFound
from eoforge.methods.anneal.annotations import MAX_SECONDS, Pair
from eoforge.methods.anneal.session_state import Status
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import join, normalise
from eoforge.storage.objects import ObjectStore
from services.console.problems import NotConfigured
from services.console.session import Caller
from services.console.settings import ConsoleSettings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHOWN = 50

Who = Annotated[str, Query(alias="as", max_length=128)]
"""Name that annotators give where nobody signs in, such as on a laptop with two of them."""


@dataclass(frozen=True)
class Listed:
    """Session in the list.

    Attributes:
        name: Its name.
        status: Its state; None if it cannot be read.
        problem: Why it cannot be read.
    """

    name: str
    status: Status | None
    problem: str = ""


class Posted(BaseModel):
    """An answer as the form sends it.

    Attributes:
        first: A patch.
        second: The other patch.
        answer: ``similar``, ``dissimilar`` or ``skip``.
        request_id: Made once for each showing of a pair: the same answer sent twice counts once.
        seconds: Time that the annotator took.
        who: Name that was given, where nobody signs in.
    """

    first: str = Field(max_length=200)
    second: str = Field(max_length=200)
    answer: Literal["similar", "dissimilar", "skip"]
    request_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")
    seconds: float = Field(0.0, ge=0, le=MAX_SECONDS)
    who: str = Field("", alias="as", max_length=128)


def new_request_id() -> str:
    """Id of one click."""
    return secrets.token_urlsafe(18).replace("-", ".").lstrip("._") or "0"


def annotator(caller: Caller, given: str) -> str:
    """Name under which answers are stored: the signed-in person's, else the given one."""
    return caller.subject if caller.token is not None or not given.strip() else given.strip()


def sessions(request: Request) -> list[Listed]:
    """Sessions by name, ``SHOWN`` at most; one that cannot be read says so."""
    found = []
    root = _root(request)
    for name in [name for name in ObjectStore(root).folders() if NAME.fullmatch(name)][:SHOWN]:
        try:
            found.append(Listed(name, AnnotationSession.open(join(root, name)).status()))
        except NotFound:  # another folder, or a session whose table has vanished
            if ObjectStore(join(root, name)).exists("session.json"):
                found.append(Listed(name, None, "its table of patches is not there any more"))
        except (DamagedObject, DataRefused):
            found.append(Listed(name, None, "its files are damaged, or name another table"))
    return found


def open_session(request: Request, name: str) -> AnnotationSession:
    """Session of a name.

    Raises:
        NotFound: There is none of that name, or its patches are gone.
        DataRefused: It is damaged.
        StoreError: The store cannot be reached.
    """
    absent = "there is no annotation session of this name, or its table of patches is not there any more"
    if not NAME.fullmatch(name):
        raise NotFound(absent)
    try:
        return AnnotationSession.open(join(_root(request), name))
    except NotFound as error:
        raise NotFound(absent) from error
    except (DamagedObject, DataRefused) as error:
        raise DataRefused("the files of this annotation session are damaged, or name another table") from error


def pair_of(posted: Posted) -> Pair:
    """The pair of an answer.

    Raises:
        UsageError: Both patches are the same, or one has no name.
    """
    return Pair.of(posted.first, posted.second)


def address_of(request: Request, name: str) -> str:
    """Address of a session."""
    return join(_root(request), name)


def _root(request: Request) -> str:
    settings: ConsoleSettings = request.app.state.settings
    if settings.annotations_uri is None:
        raise NotConfigured("this console was given no folder of annotation sessions (EOFORGE_ANNOTATIONS_URI)")
    return normalise(settings.annotations_uri)
