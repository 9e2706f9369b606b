"""Assembly of the console: pages, static files, sign-in, errors, and the guard in front."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from fastapi import Depends, FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from services.console import problems, signin
from services.console.pages import PAGES, nav_of
from services.console.pictures import Pictures
from services.console.render import STATIC
from services.console.security import STATIC_PREFIX, Guard
from services.console.session import Sessions, require_csrf
from services.console.settings import ConsoleSettings
from services.console.sources import Sources

STATIC_SECONDS = 3600


class _Static(StaticFiles):
    """Static files that browsers keep; addresses carry the version."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer for a file."""
        answer = await super().get_response(path, scope)
        answer.headers["cache-control"] = f"public, max-age={STATIC_SECONDS}"
        return answer


def application(settings: ConsoleSettings) -> FastAPI:
    """Application without its guard.

    Args:
        settings: All settings.

    Raises:
        UsageError: The settings contradict each other or expose the console.
    """
    settings.require_consistent()
    app = FastAPI(title="eoforge console", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.settings = settings
    app.state.sessions = Sessions(settings)
    app.state.sources = Sources(settings)
    app.state.pictures = Pictures()
    app.state.provider = signin.Provider(settings) if settings.signs_in else None
    for kind in problems.HANDLED:
        app.add_exception_handler(kind, problems.answer)
    guarded = [Depends(require_csrf)]
    for module in PAGES:
        app.include_router(import_module(f"services.console.pages.{module}").router, dependencies=guarded)
    app.include_router(signin.router, dependencies=guarded)
    # Pages are not compressed: to a stranger who chooses part of their text, their length would tell the form's token.
    app.mount(STATIC_PREFIX.rstrip("/"), GZipMiddleware(_Static(directory=STATIC)))

    @app.get("/")
    async def first() -> Response:
        return RedirectResponse(nav_of(settings)[0][1], status_code=303)

    return app


def guarded(settings: ConsoleSettings, draining: Callable[[], bool] = lambda: False) -> Guard:
    """The console behind its guard, an ASGI application.

    Args:
        settings: All settings.
        draining: Whether the process is about to end.

    Raises:
        UsageError: The settings contradict each other or expose the console.
    """
    app = application(settings)
    app.state.draining = draining
    modules = [import_module(f"services.console.pages.{module}") for module in PAGES]
    uploads = [path for module in modules for path in getattr(module, "UPLOADS", ())]
    return Guard(app, settings, app.state.sessions, app.state.provider, uploads, draining)
