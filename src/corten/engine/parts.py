"""What the engine's services share.  Made once, in `daemon`; nobody else makes any of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from corten.core.containers import ContainerRecord, ContainerStore
from corten.core.eventlog import EventLog
from corten.core.events import Event, EventBus
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.snapshots import Overlay
from corten.core.volumes import VolumeStore
from corten.engine import cdi, logconfig
from corten.engine.container import Container, Roster
from corten.engine.host import Host
from corten.engine.inspect import Paths
from corten.engine.logconfig import LogPlace
from corten.engine.looks import Looks
from corten.engine.networks import Networks
from corten.engine.policies import Policies
from corten.engine.record import Record, encode
from corten.engine.registries import Registries
from corten.engine.retry import Retries
from corten.engine.senders import Senders
from corten.engine.settings import Settings
from corten.engine.tasks import Tasks
from corten.engine.usernamespaces import UserNamespaces
from corten.engine.views import Views
from corten.errors import NotFound, Unavailable
from corten.network.bridge import BridgeDriver

Json = dict[str, Any]

log = logging.getLogger("corten.engine")

_LEASES = "leases of requests that are over"


@dataclass(slots=True)
class Parts:
    """`settings` and `policies` are replaced on reload; all else stays."""

    settings: Settings
    machine: Host
    engine_id: str
    loop: asyncio.AbstractEventLoop
    roster: Roster
    containers: ContainerStore
    images: ImageStore
    snapshots: Overlay
    volumes: VolumeStore
    journal: Journal
    event_log: EventLog
    bus: EventBus
    tasks: Tasks
    bridge: BridgeDriver
    networks: Networks
    retries: Retries
    registries: Registries = field(init=False)
    views: Views = field(init=False)
    cdi: cdi.Registry = field(default_factory=cdi.Registry)
    init_binary: str = ""
    started_ns: int = 0
    policies: Policies = field(default_factory=Policies)
    senders: Senders = field(default_factory=Senders)
    user_namespaces: UserNamespaces = field(default_factory=UserNamespaces)
    host_looks: Looks = field(default_factory=Looks)  # at bind sources and devices, by path
    container_looks: Looks = field(default_factory=Looks)  # at files of containers, by id
    unreadable: dict[str, bytes] = field(default_factory=dict)
    """Records that this release cannot read, by id of their containers: all that is theirs is left alone."""
    background: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.registries = Registries(lambda: self.settings)
        self.views = Views(self)
        self.images.leases.owed = self._leases_owed

    def _leases_owed(self, error: Unavailable) -> None:
        with suppress(RuntimeError):  # the loop is closed: the next start ends them
            self.loop.call_soon_threadsafe(self.retries.later, _LEASES, error, self._settle_leases)

    def _settle_leases(self) -> None:
        try:
            self.images.leases.settle()
        except Unavailable as error:
            self.retries.later(_LEASES, error, self._settle_leases)

    @property
    def cgroup_parent(self) -> str:
        """Where containers' cgroups are unless --cgroup-parent says otherwise; it carries the engine's id."""
        return cgroup_parent(self.engine_id)

    def cgroup_path(self, container_id: str) -> str:
        """The cgroup of a container in the default parent."""
        return f"{self.cgroup_parent}/{container_id}"

    def paths(self, container_id: str) -> Paths:
        """Where a container's files are."""
        return Paths(self.settings.data_root, container_id)

    def log_place(self, container: Container) -> LogPlace | None:
        """Where a container's log can be read; None where it is not kept."""
        return logconfig.place(container.record.effective, self.paths(container.id).directory, container.id)

    def save(self, container: Container, record: Record) -> None:
        """Make a container's new record the true one: on disk, then in memory."""
        self.containers.update(row(record))
        container.record = record

    def note(self, container: Container, record: Record) -> None:
        """A record of what has happened already: true in any case; on disk now or, when that is full, with the next."""
        try:
            self.save(container, record)
        except NotFound:  # it was removed meanwhile
            container.record = record
        except Unavailable as error:
            log.warning("record of container %s is kept in memory: %s", container.id, error)
            container.record = record

    def sync(self) -> None:
        """What was recorded so far survives the machine; one fsync, for a thread."""
        self.images.database.sync()

    def publish_after_waiters(self, event: Event) -> None:
        """Those who wait run first, in the second turn of the loop from here (the first resolves their shield): so the
        event `stop` comes before `die` and that before `destroy`, as dockerd has it."""
        self.loop.call_soon(self.loop.call_soon, self.bus.publish, event)

    def run_later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that nobody waits for; the engine waits for it when it closes."""
        task = self.loop.create_task(work)
        self.background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error)

    async def settle(self) -> None:
        """Wait until no work is left in the background."""
        while self.background:
            await asyncio.wait(list(self.background))


def cgroup_parent(engine_id: str) -> str:
    """The default parent cgroup of an engine."""
    return f"/corten-{engine_id}"


def row(record: Record) -> ContainerRecord:
    """The database's row of a record."""
    return ContainerRecord(
        id=record.id,
        name=record.name,
        image=record.image_id,
        labels=record.labels,
        engine=encode(record),
        created_ns=record.created_ns,
    )
