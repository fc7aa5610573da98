"""Where a registry answers, and on which terms: a value that `hosts` makes from configuration and the client obeys."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to believe and who to be.  Paths of PEM files, read when a first connection is made."""

    ca_files: tuple[str, ...] = ()
    """Trusted besides the system's."""
    client_certs: tuple[tuple[str, str], ...] = ()
    """(certificate, key); the first one is shown."""
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that speaks the distribution protocol.

    `url` is the root of it, without a slash at the end: `https://registry-1.docker.io/v2`, or what `override_path` of
    hosts.toml makes of it.  `headers` go to this host alone, neither over redirects nor to a token server.
    """

    url: str
    can_resolve: bool = True
    can_pull: bool = True
    can_push: bool = True
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    namespace: str = ""
    """The registry that a mirror is asked for (`?ns=`, as containerd does); "" sends none."""
    is_mirror: bool = False
    """Not the registry of the name itself: gets no credentials, and whatever it fails with, the next one is tried."""
    plain_http_fallback: bool = False
    """An insecure registry: plain HTTP is tried where nobody speaks TLS."""

    @property
    def origin(self) -> tuple[str, str, int]:
        """(scheme, host, port): what credentials are bound to."""
        return origin_of(self.url)

    def plain(self) -> Endpoint:
        """The same without TLS."""
        return replace(self, url="http://" + self.url.removeprefix("https://"), plain_http_fallback=False)


def origin_of(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of an http or https URL, lower case.  Raises ValueError for others."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    if default is None or not parts.hostname:
        raise ValueError(f"no http URL: {url}")
    return parts.scheme, parts.hostname, default if parts.port is None else parts.port
