"""The endpoints of all networks, by id, container and address: what a start costs does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TypeVar

from corten.network.values import Endpoint

K = TypeVar("K")

_NONE: frozenset[int] = frozenset()


class Endpoints:
    """Endpoints in the order in which they came.  Whoever uses it from several threads holds a lock."""

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        self._by_id: dict[str, Endpoint] = {}
        self._by_container: dict[str, list[str]] = {}
        self._by_number: dict[str, dict[int, list[str]]] = {}  # network id → address → endpoint ids
        for one in endpoints:
            self.put(one)

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> tuple[Endpoint, ...]:
        """All of them."""
        return tuple(self._by_id.values())

    def get(self, endpoint_id: str) -> Endpoint | None:
        """By its id."""
        return self._by_id.get(endpoint_id)

    def of(self, container_id: str) -> tuple[Endpoint, ...]:
        """A container's."""
        return tuple(self._by_id[one] for one in self._by_container.get(container_id, ()))

    def on(self, network_id: str) -> tuple[Endpoint, ...]:
        """A network's."""
        return tuple(one for one in self._by_id.values() if one.network_id == network_id)

    def numbers(self, network_id: str) -> AbstractSet[int]:
        """The taken addresses of a network as numbers; a view that changes with the endpoints."""
        return self._by_number[network_id].keys() if network_id in self._by_number else _NONE

    def put(self, endpoint: Endpoint) -> None:
        """A new one, or another value of one that is there: its container, network and addresses are the same."""
        known = endpoint.endpoint_id in self._by_id
        self._by_id[endpoint.endpoint_id] = endpoint
        if known:
            return
        self._by_container.setdefault(endpoint.container_id, []).append(endpoint.endpoint_id)
        taken = self._by_number.setdefault(endpoint.network_id, {})
        for one in endpoint.addresses:
            taken.setdefault(int(one.ip), []).append(endpoint.endpoint_id)

    def discard(self, endpoint_id: str) -> None:
        """One that is gone; unknown ones are fine."""
        gone = self._by_id.pop(endpoint_id, None)
        if gone is None:
            return
        _drop(self._by_container, gone.container_id, endpoint_id)
        taken = self._by_number[gone.network_id]
        for one in gone.addresses:
            _drop(taken, int(one.ip), endpoint_id)
        if not taken:
            del self._by_number[gone.network_id]


def _drop(index: dict[K, list[str]], key: K, endpoint_id: str) -> None:
    """A damaged database may have two endpoints with one address: the other is found from then on."""
    index[key].remove(endpoint_id)
    if not index[key]:
        del index[key]
