"""A registry in this process, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from corten.registry import attempts
from corten.registry.cancel import Cancel
from corten.registry.client import Registry, Repository
from corten.registry.credentials import Credentials
from corten.registry.endpoint import Endpoint
from corten.registry.transport import Transport, TransportSettings
from support import registryserver
from support.registryserver import Server

Connect = Callable[..., Repository]


@pytest.fixture
def server() -> Iterator[Server]:
    """A registry over plain HTTP."""
    with registryserver.serving() as running:
        yield running


@pytest.fixture
def transport() -> Iterator[Transport]:
    """Connections that give up soon."""
    made = Transport(TransportSettings(connect_timeout=5, read_timeout=5))
    yield made
    made.close()


@pytest.fixture
def connect(transport: Transport) -> Connect:
    """A repository `a/b` behind some endpoints."""

    def make(
        *endpoints: Endpoint | Server,
        credentials: Credentials | None = None,
        cancel: Cancel | None = None,
    ) -> Repository:
        found = [each if isinstance(each, Endpoint) else Endpoint(each.url) for each in endpoints]
        registry = Registry(transport, found, credentials=credentials or Credentials(), cancel=cancel or Cancel())
        return registry.repository("a/b")

    return make


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other quickly."""
    monkeypatch.setattr(attempts, "_FIRST_WAIT", 0.002)
    monkeypatch.setattr(attempts, "_LAST_WAIT", 0.01)
