"""HTTP to registries: kept connections, TLS, proxies, redirects, repeated attempts; rules of ours on top of urllib3."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxy URLs by scheme of the target, "" for none, and `no_proxy` in curl's and Go's form."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What an engine's configuration says about connections.  Times are seconds."""

    user_agent: str = "docker/26.1.5 corten"
    proxies: Proxies = Proxies()
    connect_timeout: float = 30.0
    read_timeout: float = 60.0
    """The longest silence of a peer."""
    attempts: int = 5
    """How often a blob is asked for without a byte coming (`max-download-attempts`)."""


class Transport:
    """The connections of an engine: one object for all pulls and pushes.  Thread-safe."""

    def __init__(self, settings: TransportSettings = TransportSettings()) -> None:
        self.settings = settings

    def close(self) -> None:
        """Closes kept connections."""
