"""Sign-in by OpenID Connect: authorization code with PKCE, at any provider; authlib speaks the protocol."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import jwt
import structlog
from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from joserfc.errors import JoseError

from eoforge.errors import EoforgeError, UsageError
from services._runtime.errors import NotReady, Unauthenticated
from services.console.problems import LOCAL_PATH
from services.console.render import page
from services.console.session import Cookies, Session
from services.console.settings import ConsoleSettings

SIGN_IN_SECONDS = 600.0
RENEW_BEFORE_SECONDS = 30.0
PROVIDER_SECONDS = 10.0
MAX_SIGN_INS, MAX_PLACE_CHARS = 3, 2000
"""Sign-ins of one browser that wait for the provider, and length of the address that each leads to."""
_RETRY_S = 5.0
_CODE = re.compile("[a-z_]{1,40}")

log = structlog.get_logger("signin")
router = APIRouter()


class Provider:
    """OpenID Connect provider of the settings; found by discovery at the first sign-in.

    Args:
        settings: Issuer, client, and which token goes on to the services.

    Raises:
        UsageError: The secret's file cannot be read.
    """

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings
        self._cookies = Cookies(settings, "eoforge_sign_in", SIGN_IN_SECONDS)
        self._redirect_uri = f"{str(settings.public_url).rstrip('/')}/sign-in/callback"
        secret = settings.oidc_client_secret_file
        self._client = OAuth().register(
            "provider",
            client_id=settings.oidc_client_id,
            client_secret=_secret(secret) if secret is not None else None,
            server_metadata_url=f"{str(settings.oidc_issuer).rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": settings.oidc_scope,
                "code_challenge_method": "S256",
                "timeout": PROVIDER_SECONDS,
                "token_endpoint_auth_method": "client_secret_basic" if secret is not None else "none",
            },
        )

    async def begin(self, request: Request, there: str) -> Response:
        """Redirection to the provider; state, nonce and PKCE's verifier wait in a cookie.

        Several tabs may begin at the same time, as they do when a session has ended: the last few are kept.

        Args:
            request: The request.
            there: Page to show after the sign-in.

        Raises:
            NotReady: The provider cannot be reached.
        """
        request.scope["session"] = {}
        audience = self._settings.oidc_audience
        try:
            answer: Response = await self._client.authorize_redirect(
                request, self._redirect_uri, **({"audience": audience} if audience else {})
            )
        except (httpx2.HTTPError, RuntimeError, ValueError, KeyError) as error:
            raise _unreachable(error) from error
        (state,) = parse_qs(urlsplit(answer.headers["location"]).query)["state"]
        begun = dict(list(self._begun(request).items())[1 - MAX_SIGN_INS :])
        begun[state] = {"kept": request.scope["session"], "there": there}
        for value in self._cookies.write({"begun": begun}, request.cookies):
            answer.headers.append("set-cookie", value)
        return answer

    async def finish(self, request: Request) -> Response:
        """Answer to the provider's redirection back: a session, and the page that was wanted.

        Raises:
            Unauthenticated: The answer is none to a sign-in of this browser, or the provider refused.
            NotReady: The provider cannot be reached.
        """
        begun = self._begun(request)
        if not begun:
            raise Unauthenticated("this sign-in was not begun in this browser, or took too long; sign in again")
        this = begun.pop(request.query_params.get("state", ""), {"kept": {}, "there": "/"})
        request.scope["session"] = this["kept"]
        if not (request.query_params.get("code") or request.query_params.get("error")):
            raise Unauthenticated("the provider's answer does not hold; sign in again")
        try:
            found = await self._client.authorize_access_token(request)
        except OAuthError as error:
            code = str(error.error) if _CODE.fullmatch(str(error.error)) else "no reason given"
            raise Unauthenticated(f"the provider did not sign you in ({code}); sign in again") from error
        except (JoseError, jwt.PyJWTError, KeyError, ValueError) as error:
            raise Unauthenticated("the provider's answer does not hold; sign in again") from error
        except (httpx2.HTTPError, RuntimeError) as error:
            raise _unreachable(error) from error
        claims = found.get("userinfo") or {}
        if not claims.get("sub"):
            raise Unauthenticated("the provider did not say who signed in; ask for the scope openid")
        names = (claims.get(key) for key in ("name", "preferred_username", "email", "sub"))
        name = next(str(name)[:80] for name in names if name)
        request.state.session = Session().signed_in(name=name, subject=str(claims["sub"])[:256], **self._tokens(found))
        answer = RedirectResponse(this["there"], status_code=303)
        present = request.cookies
        for value in self._cookies.write({"begun": begun}, present) if begun else self._cookies.clear(present):
            answer.headers.append("set-cookie", value)
        log.info("signed in", caller=claims["sub"])
        return answer

    def _begun(self, request: Request) -> dict[str, Any]:
        """Sign-ins of this browser that wait for the provider's answer, by state: what authlib keeps, and the page."""
        begun = (self._cookies.read(request.cookies) or {}).get("begun")
        return begun if isinstance(begun, dict) else {}

    async def renewed(self, session: Session) -> Session:
        """Session with a new token if its token is about to end and the provider gave a refresh token."""
        if not session.refresh or not session.expires or session.expires - time.time() > RENEW_BEFORE_SECONDS:
            return session
        try:
            found = await self._client.fetch_access_token(grant_type="refresh_token", refresh_token=session.refresh)
            tokens = self._tokens(found)
        except (OAuthError, httpx2.HTTPError, RuntimeError, ValueError, KeyError, Unauthenticated) as error:
            log.warning("token was not renewed", caller=session.subject, why=type(error).__name__)
            return session  # which ends when its token does
        return Session(**{**vars(session), **tokens, "refresh": tokens["refresh"] or session.refresh})

    async def end_address(self) -> str:
        """Page of the provider at which people end their session there; empty if it has none, or does not answer.

        The redirection of a form would not reach it, because the policy lets forms lead to our own pages alone.
        """
        try:
            found = str((await self._client.load_server_metadata()).get("end_session_endpoint") or "")
        except (httpx2.HTTPError, RuntimeError, ValueError, KeyError) as error:
            log.warning("the provider does not answer", why=type(error).__name__)
            return ""
        if urlsplit(found).scheme not in ("https", "http"):
            return ""
        joint = "&" if "?" in found else "?"
        return f"{found}{joint}{urlencode({'client_id': self._settings.oidc_client_id})}"

    def _tokens(self, found: dict[str, Any]) -> dict[str, Any]:
        """Part of a session that comes from the provider's tokens.

        Raises:
            Unauthenticated: The provider gave no token of the kind that the services want.
        """
        kind = self._settings.oidc_service_token
        token = found.get(kind)
        if not token:
            raise Unauthenticated(f"the provider gave no {kind}; tell the operator of this console")
        expires = float(found.get("expires_at") or 0.0)
        try:
            expires = float(jwt.decode(token, options={"verify_signature": False})["exp"])
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):  # a token that is no JWT: the provider's word counts
            log.debug("the token is no JWT")
        return {"token": token, "expires": expires, "refresh": found.get("refresh_token") or ""}


@router.get("/sign-in")
async def sign_in(request: Request, next: str = "/") -> Response:
    """Sends people to the provider; ``next`` is a path of the console, and any other value counts as its first page."""
    local = LOCAL_PATH.fullmatch(next) and len(next) <= MAX_PLACE_CHARS
    return await _provider(request).begin(request, next if local else "/")


@router.get("/sign-in/callback")
async def callback(request: Request) -> Response:
    """Where the provider sends people back to."""
    return await _provider(request).finish(request)


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Ends the session of this browser."""
    request.state.session = Session()
    provider: Provider | None = request.app.state.provider
    return page(request, "signed_out.html", end=await provider.end_address() if provider is not None else "")


def _provider(request: Request) -> Provider:
    provider: Provider | None = request.app.state.provider
    if provider is None:
        raise UsageError("nobody signs in at this console: it has one identity for all (EOFORGE_OIDC_ISSUER is unset)")
    return provider


def _unreachable(error: Exception) -> EoforgeError:
    log.error("the provider does not answer", exc_info=error)
    return NotReady("the sign-in provider cannot be reached at the moment; try again later", _RETRY_S)


def _secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UsageError(f"EOFORGE_OIDC_CLIENT_SECRET_FILE cannot be read: {error.strerror}") from error
