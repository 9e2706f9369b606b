"""What the pages show comes from: clients of the services, in the name of each caller, and tables of the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from eoforge.client import CompressionClient, FederationClient, RetrievalClient
from eoforge.client.base import ServiceClient
from eoforge.errors import NotFound, UsageError
from eoforge.storage.addresses import TableRef, open_table
from services._runtime.errors import NotReady
from services.console.problems import UNREACHABLE, NotConfigured
from services.console.session import Caller
from services.console.settings import ConsoleSettings

if TYPE_CHECKING:
    import lance

log = structlog.get_logger("sources")
MAX_CLIENTS = 64
RETRY_S = 5.0
ATTEMPTS = 2
TABLES = {"patches": "EOFORGE_PATCHES_URI", "streams": "EOFORGE_STREAMS_URI"}
TLS = {"auto": None, "on": True, "off": False}
Client = TypeVar("Client", bound=ServiceClient)


class Sources:
    """Clients and tables of one console; thread-safe.

    Args:
        settings: Their addresses.

    Attributes:
        owners: Address of the retrieval service of each other owner whose pictures may be asked.

    Raises:
        UsageError: A file cannot be read, or a token would be sent without encryption.
    """

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings, self.owners = settings, settings.owners
        self._clients: OrderedDict[tuple[str, str | None], Any] = OrderedDict()
        self._lock = threading.Lock()
        shown = settings.token.get_secret_value() if settings.token is not None else None
        targets = (settings.retrieval_target, settings.federation_target, settings.compression_target)
        for target in (*filter(None, targets), *self.owners.values()):
            # What is wrong with files and encryption is said at the start, and not to visitors.
            self._open(ServiceClient, target, "token" if settings.signs_in else shown).close()

    def retrieval(self, caller: Caller) -> RetrievalClient:
        """Client of the retrieval service with the caller's token.

        Raises:
            NotConfigured: The console was given none.
        """
        return self._client(RetrievalClient, self._settings.retrieval_target, "RETRIEVAL", caller)

    def owner(self, name: str, caller: Caller) -> RetrievalClient:
        """Client of another owner's retrieval service with the caller's token.

        Raises:
            NotConfigured: The console was given none.
        """
        if name not in self.owners:
            raise NotConfigured("the pictures of this owner stay with it: this console may not ask there")
        return self._client(RetrievalClient, self.owners[name], f"OWNER {name}", caller)

    def compression(self, caller: Caller) -> CompressionClient:
        """Client of the compression service with the caller's token.

        Raises:
            NotConfigured: The console was given none.
        """
        return self._client(CompressionClient, self._settings.compression_target, "COMPRESSION", caller)

    def federation(self, caller: Caller) -> FederationClient:
        """Client of the coordinator with the caller's token.

        Raises:
            NotConfigured: The console was given none.
        """
        return self._client(FederationClient, self._settings.federation_target, "FEDERATION", caller)

    def table(self, name: str) -> lance.LanceDataset:
        """Newest version of a table of the settings: ``patches`` or ``streams``.

        Raises:
            NotConfigured: The console was given none.
            NotFound: It does not exist (yet, or any more); the message names no address.
            StoreError: The store cannot be reached.
        """
        uri = getattr(self._settings, f"{name}_uri")
        if uri is None:
            raise NotConfigured(f"this console was given no table of {name} ({TABLES[name]})")
        try:
            return open_table(TableRef.parse(uri))
        except NotFound as error:
            raise NotFound(
                f"there is no table of {name} at the address that this console was given: it was not made yet, was "
                "moved, or was removed"
            ) from error

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            while self._clients:
                self._clients.popitem()[1].close()

    def _client(self, kind: Callable[..., Client], target: str | None, name: str, caller: Caller) -> Client:
        if target is None:
            raise NotConfigured(f"this console was given no {name.lower()} service (EOFORGE_{name}_TARGET)")
        key = (name, caller.token)
        with self._lock:
            client: Client | None = self._clients.pop(key, None)
            if client is None:
                try:
                    client = self._open(kind, target, caller.token)
                except UsageError as error:  # a file is gone; its name is not for visitors
                    log.error("no client can be made", service=name, why=str(error))
                    raise NotReady(UNREACHABLE, RETRY_S) from error
            self._clients[key] = client
            while len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)  # its last user's reference closes it
            return client

    def _open(self, kind: Callable[..., Client], target: str, token: str | None) -> Client:
        settings, foreign = self._settings, target in self.owners.values()
        return kind(
            target,
            token=token,
            ca_file=str(settings.service_ca_file) if settings.service_ca_file else None,
            # The setting is about the network of the operator's own services; the way to other owners is another.
            tls=None if foreign else TLS[settings.service_tls],
            encrypted_network=settings.service_tls == "off" and not foreign,
            timeout=settings.service_seconds,
            attempts=ATTEMPTS,
        )
