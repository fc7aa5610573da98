"""Everything of an engine, made once and connected."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from corten.core.containers import ContainerStore
from corten.core.content import ContentStore
from corten.core.dataroot import DataRoot, open_data_root
from corten.core.eventlog import EventLog
from corten.core.events import EventBus
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.projects import Projects
from corten.core.shims import Zygote
from corten.core.snapshots import Overlay
from corten.core.volumes import VolumeStore
from corten.daemon import execroot, networking, shimplace
from corten.engine import host, senders, storage
from corten.engine.container import Roster
from corten.engine.infowarnings import file_system
from corten.engine.networks import Networks
from corten.engine.parts import Parts, cgroup_parent
from corten.engine.retry import Retries
from corten.engine.senders import Senders
from corten.engine.settings import Settings
from corten.engine.tasks import Tasks
from corten.engine.times import rfc3339
from corten.engine.usernamespaces import UserNamespaces
from corten.errors import InvalidArgument
from corten.launch.facts import HostFacts
from corten.launch.spawn import launcher_path
from corten.network.bridge import BridgeDriver
from corten.network.host import Host as NetworkHost
from corten.network.store import DatabaseStore
from corten.runtime import hostfacts

log = logging.getLogger("corten.daemon")

SHIM_PROGRAM = "corten-shim"
INIT_PROGRAM = "corten-init"
_CREATED = "created"


@dataclass(slots=True)
class Stores:
    """What lies on disk, open: also what `--destroy` needs."""

    root: DataRoot
    database: Database
    journal: Journal
    content: ContentStore
    snapshots: Overlay
    volumes: VolumeStore
    event_log: EventLog
    bus: EventBus
    images: ImageStore
    facts: HostFacts
    network_host: NetworkHost
    bridge: BridgeDriver

    def close(self) -> None:
        """Let go of everything; the lock last."""
        self.bridge.close()
        self.network_host.close()
        self.event_log.close()
        self.database.close()
        self.root.close()


def open_stores(settings: Settings) -> Stores:
    """Take the lock and open what is there.  Raises Conflict when another cortend has it."""
    root = open_data_root(settings.data_root)
    database = Database(root.join("corten.db"))
    journal = Journal(database)
    content = ContentStore(root.join("content"))
    projects = {name: Projects(root.join(name), database, root.engine_id) for name in ("snapshots", "volumes")}
    snapshots = Overlay(root.join("snapshots"), database, journal, projects["snapshots"])
    event_log = EventLog(root.path)
    bus = EventBus(keeper=event_log)
    network_host = NetworkHost()
    id_map = settings.id_map
    return Stores(
        root=root,
        database=database,
        journal=journal,
        content=content,
        snapshots=snapshots,
        volumes=VolumeStore(
            root.join("volumes"),
            database,
            journal,
            snapshots.trash,
            owner=id_map.root if id_map is not None else None,
            projects=projects["volumes"],
        ),
        event_log=event_log,
        bus=bus,
        images=ImageStore(database, content, snapshots, bus.publish),
        facts=hostfacts.gather(),
        network_host=network_host,
        bridge=BridgeDriver(
            root.engine_id,
            store=DatabaseStore(database),
            journal=journal,
            host=network_host,
            settings=networking.defaults_of(settings),
            has_relay=settings.userland_proxy,
        ),
    )


def make_parts(settings: Settings, stores: Stores, program: str, *, open_files: int = -1) -> Parts:
    """The engine's parts; `program` is cortend's own path, with corten-shim beside it; `open_files` as for Zygote."""
    _check_storage(settings, has_quotas=stores.snapshots.can_limit)
    engine_id = stores.root.engine_id
    execroot.prepare(settings.exec_root, engine_id)
    shim = find_program(program, SHIM_PROGRAM)
    joins = partial(shimplace.prepare, stores.facts, engine_id)  # later: a start that is refused makes none
    zygote = Zygote(shim, settings.exec_root, open_files=open_files, debug=settings.debug, joins=joins)
    stores.bridge.ensure()
    stores.bridge.watch()
    created = stores.database.meta(_CREATED) or rfc3339(time.time_ns())
    stores.database.set_meta(_CREATED, created)
    namespaces = UserNamespaces()
    if settings.id_map is not None:
        namespaces.path(settings.id_map)  # before anything is served: it blocks
    return Parts(
        settings=settings,
        machine=replace(
            host.gather(stores.facts.cgroup_mode, stores.facts.cgroup_v1), has_quotas=stores.snapshots.can_limit
        ),
        engine_id=engine_id,
        loop=asyncio.get_running_loop(),
        roster=Roster(),
        containers=ContainerStore(stores.database),
        images=stores.images,
        snapshots=stores.snapshots,
        volumes=stores.volumes,
        journal=stores.journal,
        event_log=stores.event_log,
        bus=stores.bus,
        tasks=Tasks(zygote, stores.journal, stores.facts, settings.exec_root, cgroup_parent=cgroup_parent(engine_id)),
        bridge=stores.bridge,
        networks=Networks(engine_id, stores.bridge, created),
        retries=Retries(stores.database.probe),
        init_binary=settings.init_path or os.path.join(os.path.dirname(launcher_path()), INIT_PROGRAM),
        started_ns=time.time_ns(),
        senders=_senders(settings, engine_id),
        user_namespaces=namespaces,
    )


def _check_storage(settings: Settings, *, has_quotas: bool) -> None:
    """Whether containers can have daemon.json's size.  Raises InvalidArgument in dockerd's words."""
    if has_quotas or not storage.default_options(settings.storage_opts):
        return
    kind = file_system(settings.data_root)
    reason = f"Option {storage.DRIVER_SIZE} only supported for backingFS XFS. Found {kind}"
    if kind == "xfs":
        lacks = "Filesystem does not support, or has not enabled quotas"
        reason = f"option {storage.DRIVER_SIZE} not supported. Filesystem does not support Project Quota: {lacks}"
    raise InvalidArgument(f"error initializing graphdriver: Storage {reason}: overlay2")


def _senders(settings: Settings, engine_id: str) -> Senders:
    """Also when it is not wanted any more: the program of an earlier start goes."""
    if settings.signal_senders:
        return senders.open_senders(settings.exec_root, engine_id)
    try:
        senders.remove(settings.exec_root)
    except OSError as error:
        log.warning("the program of %s of an earlier start stays: %s", senders.SETTING, error)
    return Senders()


def find_program(own: str, name: str) -> str:
    """A program of ours: beside this one, else in PATH, else beside the interpreter."""
    beside = os.path.join(os.path.dirname(os.path.realpath(shutil.which(own) or own)), name)
    if os.path.exists(beside):
        return beside
    return shutil.which(name) or os.path.join(os.path.dirname(sys.executable), name)
