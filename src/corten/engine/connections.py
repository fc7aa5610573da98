"""Containers joined to networks, and taken off them, after they were made.

    connect     settings checked → running: interface, routes, ports, names, /etc/hosts → record
    disconnect  record → running: routes over what stays, ports to it, names, /etc/hosts, interface

The record decides: what a kill leaves of either is a running container with an endpoint that its record does not name,
and `settle` takes it off.

Sources: NetworkConnect and NetworkDisconnect of the Engine API; moby daemon/container_operations.go, whose texts and
kinds of failure these are.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Final

from msgspec.structs import replace

from corten.engine import hostfiles
from corten.engine.attachments import SHARED, Attachment, Attachments
from corten.engine.container import Container
from corten.engine.endpointchecks import check_settings
from corten.engine.naming import Naming
from corten.engine.networkkinds import check_joinable
from corten.engine.parts import Parts
from corten.engine.publishing import Publishing
from corten.engine.record import Record, Status
from corten.errors import (
    Conflict,
    CortenError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from corten.network.values import Network
from corten.shim.protocol import NETNS_FD
from corten.spec.docker import EndpointSettings

log = logging.getLogger("corten.engine")

_HOST: Final = "container cannot be disconnected from host network or connected to host network"
_PRIVATE: Final = "container cannot be connected to multiple networks with one of the networks in private (none) mode"


class Connections:
    """The verbs.  Each holds the container's lock."""

    def __init__(self, parts: Parts, find: Callable[[str], Container], naming: Naming, publishing: Publishing) -> None:
        self._parts = parts
        self._publishing = publishing
        self._find = find
        self._naming = naming
        self._attachments = Attachments(parts)

    async def connect(self, ref: str, container_ref: str, settings: EndpointSettings | None) -> None:
        """A network that is not there, yet, is taken for a container that does not run (dockerd).

        Raises NotFound, PermissionDenied, Conflict, InvalidArgument; nothing is changed then.
        """
        container, asked = self._find(container_ref), settings or EndpointSettings()
        async with container.lock:
            self._check_there(container, container_ref)
            network = self._known(ref, is_needed=container.is_running)
            if network is not None:
                self._check_connect(container, network, asked)
            if not container.is_running:
                self._note(container, network.name if network is not None else ref, asked)
                return
            assert network is not None
            async with AsyncExitStack() as undo:
                await self._join(container, Attachment(network, asked), undo)
                self._parts.save(container, container.record)
                undo.pop_all()
            self._attachments.tell(container, "connect", {network.name: ""})

    def _note(self, container: Container, name: str, asked: EndpointSettings) -> None:
        """For its next start; what was asked for first stays."""
        if name not in container.record.effective.endpoints:
            self._parts.save(container, _with(container.record, name, asked))

    async def disconnect(self, ref: str, container_ref: str, force: bool = False) -> None:
        """`force`: also from a network that is gone, of which the container's record still speaks."""
        container = self._find(container_ref)
        async with container.lock:
            self._check_there(container, container_ref)
            network = self._known(ref, is_needed=container.is_running and not force)
            name = network.name if network is not None else ref
            self._check_disconnect(container, network, name)
            self._parts.save(container, _without(container.record, name))
            if network is None:
                return
            if container.is_running:
                await self._leave(container, network)
            self._attachments.tell(container, "disconnect", {name: ""})

    # What is refused

    def _check_there(self, container: Container, ref: str) -> None:
        """Another client may have removed it while this one waited."""
        if container.id not in self._parts.roster:
            raise NotFound(f"No such container: {ref}")
        if container.record.state.status in (Status.REMOVING, Status.DEAD):
            raise Internal(
                f"Container {container.id} is marked for removal and cannot be connected or disconnected to the network"
            )

    def _known(self, ref: str, *, is_needed: bool) -> Network | None:
        return self._parts.networks.find(ref) if is_needed else self._parts.networks.sought(ref)

    def _check_connect(self, container: Container, network: Network, asked: EndpointSettings) -> None:
        effective = container.record.effective
        if container.is_running and effective.network.startswith("container:"):
            raise InvalidArgument(SHARED)
        check_joinable(network)
        check_settings(network, asked)
        if network.name in effective.endpoints:
            if container.is_running:
                raise PermissionDenied(f"endpoint with name {container.name} already exists in network {network.name}")
            return
        if network.name == "host" and effective.network != "host":
            raise InvalidArgument(_HOST)
        if "host" in (effective.network, *effective.endpoints):
            raise InvalidArgument(SHARED)
        if "none" in effective.endpoints or network.name == "none":
            raise InvalidArgument(_PRIVATE)

    def _check_disconnect(self, container: Container, network: Network | None, name: str) -> None:
        effective = container.record.effective
        if container.is_running and effective.network == name == "host":
            raise InvalidArgument(_HOST)
        if name not in effective.endpoints:
            article = "" if container.is_running and network is not None else "the "
            raise Internal(f"container {container.id} is not connected to {article}network {name}")

    # In the kernel

    async def _join(self, container: Container, one: Attachment, undo: AsyncExitStack) -> None:
        undo.push_async_callback(self._take_back, container, one.network)
        with self._namespace(container) as netns_fd:
            endpoint = self._attachments.connect(container, one, netns_fd)
            record = _with(container.record, one.network.name, one.settings)
            places = {**record.place.networks, one.network.name: endpoint.endpoint_id}
            container.record = replace(record, place=replace(record.place, networks=places))
            self._attachments.lead_out(container, netns_fd)
        await self._publishing.follow(container)
        await self._naming.connected(container, one)
        hostfiles.connected(container, self._hosts(container), [one.ip for one in endpoint.addresses])

    def _hosts(self, container: Container) -> str:
        return self._parts.paths(container.id).hosts

    async def _take_back(self, container: Container, network: Network) -> None:
        """A connect that failed; what was noted meanwhile stays."""
        container.record = _without(container.record, network.name)
        try:
            await self._leave(container, network)
        except (CortenError, OSError):
            log.exception("container %s: network %s is left to recovery", container.id, network.name)

    async def _leave(self, container: Container, network: Network) -> None:
        """The routes first: it has an endpoint until all else is done, by which `settle` finds it."""
        endpoint = container.endpoints.pop(network.name, None)
        if endpoint is None:
            return
        with contextlib.suppress(Conflict), self._namespace(container) as netns_fd:  # it ends: there are no routes
            self._attachments.lead_out(container, netns_fd)
        with contextlib.suppress(Conflict, Unavailable):  # likewise; or its shim hangs, and keeps the sockets
            await self._publishing.follow(container, endpoint)
        hostfiles.disconnected(container, self._hosts(container), [one.ip for one in endpoint.addresses])
        with contextlib.ExitStack() as stack:
            inside: int | None = None
            with contextlib.suppress(Conflict):  # likewise
                inside = stack.enter_context(self._namespace(container))
            self._parts.bridge.disconnect(container.id, network.network_id, lives_on=True, netns_fd=inside)
        await self._naming.disconnected(container, network)

    async def settle(self, container: Container) -> None:
        """After a start of cortend: takes a running container off what its record does not name."""
        asked = container.record.effective.endpoints
        for name in [one for one in container.endpoints if one not in asked]:
            network = self._parts.networks.named(name)
            if network is None:
                continue
            log.info("container %s is taken off network %s: a connect or disconnect was cut off", container.id, name)
            try:
                await self._leave(container, network)
                await self._naming.drop(container, network)
            except (CortenError, OSError) as error:  # no reason not to serve: its end takes it off
                log.warning("container %s stays on network %s: %s", container.id, name, error)
        await self._publishing.settle(container)

    @contextlib.contextmanager
    def _namespace(self, container: Container) -> Iterator[int]:
        """The descriptor of its network namespace.  Raises Conflict when it has ended."""
        try:
            fd = os.open(f"/proc/{container.record.state.shim_pid}/fd/{NETNS_FD}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Conflict(f"container {container.id} is not running") from error
        try:
            yield fd
        finally:
            os.close(fd)


def _with(record: Record, name: str, asked: EndpointSettings) -> Record:
    """The record with one more network."""
    effective = record.effective
    endpoints = {**effective.endpoints, name: asked}
    return replace(record, effective=replace(effective, endpoints=endpoints))


def _without(record: Record, name: str) -> Record:
    """The record, and its place, with one network less."""
    effective, place = record.effective, record.place
    endpoints = {key: value for key, value in effective.endpoints.items() if key != name}
    places = {key: value for key, value in place.networks.items() if key != name}
    return replace(record, effective=replace(effective, endpoints=endpoints), place=replace(place, networks=places))
