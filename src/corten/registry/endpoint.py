"""Where a registry answers, and on which terms: a value that `hosts` makes from configuration and the client obeys."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

_ODD = re.compile(r"[\x00-\x20\x7f\\]")


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
    """(scheme, host, port) of an http or https URL without a user in it, lower case.

    What may be sent is decided by this reading of the URL, and urllib3 connects by its own: one that the two read
    differently (a backslash before an `@`) could take secrets elsewhere.  Raises ValueError for it and for all others.
    """
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    if default is None or not parts.hostname or "@" in parts.netloc or not parts.netloc.isascii() or _ODD.search(url):
        raise ValueError("no http URL")
    port = default if parts.port is None else parts.port
    try:
        other = parse_url(url)
    except LocationParseError:
        raise ValueError("no http URL") from None
    found = (other.scheme, (other.host or "").strip("[]").lower(), other.port or default)
    if found != (parts.scheme, parts.hostname, port) or not port:
        raise ValueError("no http URL")
    return parts.scheme, parts.hostname, port
