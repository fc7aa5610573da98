"""The endpoints on a bridge, found by id, container and address: what a start costs does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from corten.network.values import Endpoint


class Endpoints:
    """Endpoints in the order in which they came.  Whoever uses it from several threads holds a lock."""

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        self._by_id: dict[str, Endpoint] = {}
        self._ids_by_container: dict[str, str] = {}
        self._ids_by_number: dict[int, str] = {}
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

    def of(self, container_id: str) -> Endpoint | None:
        """A container's."""
        return self._by_id.get(self._ids_by_container.get(container_id, ""))

    @property
    def numbers(self) -> AbstractSet[int]:
        """The taken addresses as numbers; a view that changes with the endpoints."""
        return self._ids_by_number.keys()

    def put(self, endpoint: Endpoint) -> None:
        """A new one, or another value of one that is there: its container and address are the same."""
        self._by_id[endpoint.endpoint_id] = endpoint
        self._ids_by_container.setdefault(endpoint.container_id, endpoint.endpoint_id)
        self._ids_by_number.setdefault(int(endpoint.ip), endpoint.endpoint_id)

    def discard(self, endpoint_id: str) -> None:
        """One that is gone; unknown ones are fine."""
        gone = self._by_id.pop(endpoint_id, None)
        if gone is None:
            return
        if self._ids_by_container.get(gone.container_id) == endpoint_id:
            del self._ids_by_container[gone.container_id]
        if self._ids_by_number.get(int(gone.ip)) == endpoint_id:
            del self._ids_by_number[int(gone.ip)]
        if len(self._by_id) > min(len(self._ids_by_container), len(self._ids_by_number)):
            for one in self.all():  # a damaged record: two with one container or address
                self.put(one)
