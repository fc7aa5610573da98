"""The engine's way to registries: which servers, through which connections, as whom.

One object for all pulls, pushes and logins; a change of the settings holds from the next request on.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any, Final

from corten.engine.settings import Settings
from corten.engine.threads import in_own_thread
from corten.errors import InvalidArgument
from corten.registry.cancel import Cancel
from corten.registry.client import Registry
from corten.registry.credentials import AuthConfig, Credentials, credentials_of
from corten.registry.hosts import Hosts, Purpose
from corten.registry.transport import Transport, TransportSettings
from corten.spec.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

Json = dict[str, Any]

NOBODY: Final = Credentials()
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")


class Registries:
    """Makes clients of registries.  `settings` gives those of now.  All but `login` is thread-safe."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._transport = Transport(_of(settings()))

    @property
    def transport(self) -> Transport:
        """The connections that all requests share."""
        wanted = _of(self._settings())
        with self._lock:
            if self._transport.settings != wanted:  # who has the one before keeps it to his end
                self._transport = Transport(wanted)
            return self._transport

    def registry(self, domain: str, purpose: Purpose, *, credentials: Credentials = NOBODY, cancel: Cancel) -> Registry:
        """The registry `domain` (of a parsed reference) for one request of one user.

        It reads files and may ask the resolver: for a thread.  Raises InvalidArgument for a hosts.toml or certificates
        that cannot be used, and where no server is configured for the purpose.
        """
        settings = self._settings()
        hosts = Hosts(
            mirrors=settings.registry_mirrors,
            insecure=settings.insecure_registries,
            certs_dirs=settings.certs_dirs,
        )
        endpoints = hosts.endpoints(domain, purpose)
        if not endpoints:
            raise InvalidArgument(f"no server for {purpose.value} is configured for registry {domain}")
        return Registry(self.transport, endpoints, credentials=credentials, cancel=cancel)

    async def login(self, config: AuthConfig) -> Json:
        """SystemAuth: whether a registry takes the credentials; an identity token when it gives one instead."""
        domain = domain_of(config.serveraddress or "")
        cancel = Cancel()

        def prove() -> str:
            registry = self.registry(domain, Purpose.LOGIN, credentials=credentials_of(config), cancel=cancel)
            return registry.login()

        try:
            token = await in_own_thread("login", prove)
        except asyncio.CancelledError:
            cancel.cancel()
            raise
        return {"IdentityToken": token or config.identitytoken or "", "Status": "Login Succeeded"}

    def close(self) -> None:
        """Closes kept connections."""
        self._transport.close()


def domain_of(server_address: str) -> str:
    """The registry that a client means: `reg.example:5000` of `https://reg.example:5000/v1/`; docker.io for nothing.

    Raises InvalidArgument in dockerd's words.
    """
    whole = server_address if server_address.startswith(("http://", "https://")) else f"https://{server_address}"
    host = whole.partition("://")[2].partition("/")[0]
    if not server_address or host in (DEFAULT_DOMAIN, LEGACY_DOMAIN):
        return DEFAULT_DOMAIN
    if not _HOST.fullmatch(host):
        raise InvalidArgument(f'unable to parse server address: parse "{whole}": invalid host name')
    return host


def _of(settings: Settings) -> TransportSettings:
    return TransportSettings(proxies=settings.proxies, attempts=settings.max_download_attempts)
