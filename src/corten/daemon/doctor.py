"""`cortend --doctor [--fix]`: compares records and journal with disk and kernel, and says what they disagree about.

It reads everything anew and through no store of the engine's, whose opening would mend.  While cortend runs a request
under way looks like a leftover, so only what two looks have in common is told, and nothing is removed: a start of
cortend does that, and containers go on meanwhile.  With cortend dead `--fix` removes it under the lock; containers
that have a record are never touched.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from corten.core import dataroot, resolver
from corten.core.journal import CONTAINER_DIR, VOLUME_DIR
from corten.core.snapshots import STAGING, TRASH
from corten.core.trees import listed, remove_tree
from corten.daemon import execroot, firewallcheck, networking
from corten.engine import senders
from corten.engine.parts import cgroup_parent
from corten.engine.record import Status, decode
from corten.engine.settings import Settings
from corten.engine.tasks import listener_pid
from corten.errors import Conflict, NotFound
from corten.launch.facts import HostFacts
from corten.network import parents
from corten.network.device import BRIDGE, alias_of, device_name
from corten.network.firewall import FAMILY, Firewall, table_name
from corten.network.foreign import Foreign
from corten.network.legacy import Legacy
from corten.network.store import decode as decode_endpoint
from corten.network.store import decode_network
from corten.network.values import Endpoint, Network
from corten.runtime import hostfacts
from corten.runtime.cgroups import Cgroup, plan_paths
from corten.sys import mount, netlink, rtnetlink
from corten.sys.nft import Nft

LOOK_AGAIN_S: Final = 1.5
_DEATH_S: Final = 10.0
_CONTAINERS: Final = "SELECT tenant, id, engine FROM containers"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong; `kind` says how it is mended, and names a function of `_FIXES`, if any."""

    kind: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Records:
    """What the database says."""

    containers: frozenset[str]
    """`<tenant>/<id>`."""
    running: frozenset[str]
    """Those of them that were running or paused when their record was written."""
    snapshots: dict[str, str]
    """Directory name → key."""
    volumes: frozenset[str]
    endpoints: tuple[Endpoint, ...]
    networks: tuple[Network, ...]
    journal: tuple[tuple[int, str, str], ...]
    """Id, kind, name."""


def run(settings: Settings, *, fix: bool) -> int:
    """0 when nothing is wrong (any more), else 1.  Raises NotFound when there is no engine, Conflict (see above)."""
    if not os.path.exists(f"{settings.data_root}/corten.db"):
        raise NotFound(f"{settings.data_root}: no engine was ever here")
    holder = _holder(settings.data_root)
    found = examine(settings)
    if holder and found:
        time.sleep(LOOK_AGAIN_S)
        found = sorted(set(found) & set(examine(settings)))
    for one in found:
        sys.stdout.write(f"{one.text}\n")
    if found and fix and holder:
        raise Conflict(f"{holder}: start cortend anew, which removes what no record names; containers go on")
    if found and fix:
        found = _fix(settings, found)
    _summary(found, fix=fix)
    return 1 if found else 0


def _summary(found: list[Finding], *, fix: bool) -> None:
    if not found:
        text = "nothing is left that no record names" if fix else "records, journal, disk and kernel agree"
    else:
        mendable = sum(1 for one in found if one.kind in _FIXES)
        left = len(found) - mendable
        text = f"{len(found)} findings: --fix removes {mendable}, a start of cortend mends {left}"
    sys.stderr.write(f"doctor: {text}\n")


def _holder(data_root: str) -> str:
    """Who runs on these roots; empty when nobody does."""
    try:
        os.close(dataroot.lock(data_root))
    except Conflict as held:
        return held.text
    return ""


def examine(settings: Settings) -> list[Finding]:
    """Everything that is wrong now, in order."""
    with open(f"{settings.data_root}/engine-id", encoding="ascii") as file:
        engine_id = file.read().strip()
    facts = hostfacts.gather()
    records = read_records(f"{settings.data_root}/corten.db")
    return sorted(
        {
            *_disk(settings, records),
            *_tasks(settings, records),
            *_cgroups(engine_id, records, facts),
            *_links(engine_id, records),
            *_elements(engine_id, records),
            *_firewall(settings, engine_id, records),
            *_runs(settings, records),
            *_mounts(settings, records),
            *_journal(settings, records),
            *_senders(settings),
            *_resolver(settings, records),
        }
    )


def read_records(path: str) -> Records:
    """Of the database file, which stays as it is."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:

        def rows(statement: str) -> list[tuple[Any, ...]]:
            try:
                return database.execute(statement).fetchall()
            except sqlite3.OperationalError as error:  # a table that this engine never needed
                if "no such table" in str(error):
                    return []
                raise

        containers = {f"{tenant}/{id}": engine for tenant, id, engine in rows(_CONTAINERS)}
        return Records(
            containers=frozenset(containers),
            running=frozenset(name for name, engine in containers.items() if _is_running(engine)),
            snapshots={str(number): key for number, key in rows("SELECT id, key FROM snapshots")},
            volumes=frozenset(name for (name,) in rows("SELECT name FROM volumes")),
            endpoints=tuple(decode_endpoint(one) for (one,) in rows("SELECT record FROM network_endpoints")),
            networks=tuple(decode_network(one) for (one,) in rows("SELECT record FROM networks")),
            journal=tuple(rows("SELECT id, kind, name FROM journal")),
        )


def _is_running(engine: bytes) -> bool:
    """A record that this release cannot read says nothing."""
    try:
        return decode(engine).state.status in (Status.RUNNING, Status.PAUSED)
    except msgspec.DecodeError:
        return False


# what there is


def _disk(settings: Settings, records: Records) -> Iterator[Finding]:
    root = settings.data_root
    ids = {one.partition("/")[2] for one in records.containers}
    for name in listed(f"{root}/snapshots"):
        if name not in {STAGING, TRASH, *records.snapshots}:
            yield _tree(f"{root}/snapshots/{name}", "snapshot directory: no record")
    for folder, words in ((STAGING, "staging directory: no request"), (TRASH, "thrown away, and not removed yet")):
        for name in listed(f"{root}/snapshots/{folder}"):
            yield _tree(f"{root}/snapshots/{folder}/{name}", words)
    for name in listed(f"{root}/content/ingest"):
        yield _tree(f"{root}/content/ingest/{name}", "content on its way: no request")
    for name in listed(f"{root}/containers"):
        if name not in ids:
            yield _tree(f"{root}/containers/{name}", "container directory: no record")
    for number, key in records.snapshots.items():
        if not os.path.isdir(f"{root}/snapshots/{number}"):
            yield Finding("lost", key, f"snapshot {key}: its directory {number} is gone")
    for name in records.volumes:
        if not os.path.isdir(f"{root}/volumes/{name}/_data"):
            yield Finding("lost", name, f"volume {name}: its directory is gone")


def _tasks(settings: Settings, records: Records) -> Iterator[Finding]:
    root = f"{settings.exec_root}/{execroot.TASKS}"
    for tenant in listed(root):
        for name in listed(f"{root}/{tenant}"):
            if f"{tenant}/{name}" not in records.containers:
                directory = f"{root}/{tenant}/{name}"
                yield _tree(directory, "task directory: no record")
                if pid := _shim_of(directory):
                    yield Finding("shim", directory, f"process {pid}, the shim of {directory}: no record")


def _cgroups(engine_id: str, records: Records, facts: HostFacts) -> Iterator[Finding]:
    parent = cgroup_parent(engine_id)
    ids = {one.partition("/")[2] for one in records.containers}
    directories = plan_paths(facts, parent, "").directories()
    for name in {name for path in directories for name in listed(path) if os.path.isdir(f"{path}/{name}")}:
        if name not in ids:
            yield Finding("cgroup", f"{parent}/{name}", f"cgroup {parent}/{name}: no container")


def _links(engine_id: str, records: Records) -> Iterator[Finding]:
    prefix = alias_of(engine_id, "")
    known = {one.link for one in records.endpoints}
    bridges = {device_name(engine_id, one) for one in records.networks}
    below = {parents.parent_name(one) for one in records.networks if parents.is_over_parent(one)}
    socket = rtnetlink.Socket()
    try:
        links = socket.links()
    finally:
        socket.close()
    for link in links:
        if link.kind == "veth" and link.alias.startswith(prefix) and link.name not in known:
            yield Finding("link", link.name, f"link {link.name}: no endpoint")
        if link.kind == BRIDGE and link.alias.startswith(prefix) and link.name not in bridges:
            yield Finding("link", link.name, f"bridge {link.name}: no network")
        if link.kind in parents.KINDS and link.alias.startswith(prefix) and link.name not in below:
            yield Finding("link", link.name, f"{link.kind} device {link.name}: no network")


def _elements(engine_id: str, records: Records) -> Iterator[Finding]:
    """Published ports: what the maps of the engine's nftables table have, and what the records want there."""
    table = table_name(engine_id)
    expected = Firewall.expected(records.endpoints)
    try:
        nft = Nft()
    except OSError:  # no libnftables: no engine has published anything with it
        return
    with nft:
        firewall = Firewall(engine_id, nft)
        found = firewall.published() if firewall.exists() else set()
    for name in found - expected:
        yield Finding("element", f"{table} {name}", f"nftables table {table}, {name}: no endpoint publishes it")
    for name in expected - found:
        yield Finding("lost", name, f"nftables table {table}, {name}: it is published, and not there")


def _firewall(settings: Settings, engine_id: str, records: Records) -> Iterator[Finding]:
    """The table as it should be, and rules of ours in tables of others, whose bridges are gone."""
    for text in firewallcheck.differences(engine_id, records.networks, networking.defaults_of(settings)):
        yield Finding("lost", text, text)
    bridges = {device_name(engine_id, one) for one in records.networks}
    try:
        nft = Nft()
    except OSError:
        return
    with nft:
        for name in Foreign(engine_id, nft).left(bridges):
            yield Finding("rule", engine_id, f"rule of {name}: no network")
    for name in Legacy(engine_id).left(bridges):
        yield Finding("rule", engine_id, f"rule of {name}: no network")


def _runs(settings: Settings, records: Records) -> Iterator[Finding]:
    """Containers that should run and have no shim; an answering one is not asked anything."""
    for name in records.running:
        if not _shim_of(f"{settings.exec_root}/{execroot.TASKS}/{name}"):
            yield Finding("lost", name, f"container {name}: its record says that it runs, and it has no shim")


def _shim_of(directory: str) -> int:
    """Who listens on a task's socket; 0 when nobody does."""
    try:
        return listener_pid(directory)
    except OSError:
        return 0


def _mounts(settings: Settings, records: Records) -> Iterator[Finding]:
    """Below the tasks and the snapshots; what volumes have mounted belongs to them."""
    tasks = os.path.realpath(f"{settings.exec_root}/{execroot.TASKS}")
    snapshots = os.path.realpath(f"{settings.data_root}/snapshots")
    for point in mount.mount_points():
        if point.startswith(f"{snapshots}/"):
            yield Finding("mount", point, f"mount {point}: nobody mounts there")
        elif point.startswith(f"{tasks}/"):
            name = "/".join(point.removeprefix(f"{tasks}/").split("/")[:2])
            if name not in records.containers:
                yield Finding("mount", point, f"mount {point}: its container has no record")


def _journal(settings: Settings, records: Records) -> Iterator[Finding]:
    """Entries of directories that are not there: harmless, and struck out at the next start."""
    folders = {CONTAINER_DIR: "containers", VOLUME_DIR: "volumes"}
    for entry, kind, name in records.journal:
        if kind in folders and not os.path.lexists(os.path.join(settings.data_root, folders[kind], name)):
            yield Finding("journal", str(entry), f"journal entry {entry} ({kind} {name}): it is not there")


def _senders(settings: Settings) -> Iterator[Finding]:
    """A program of an earlier start that is not wanted any more."""
    if not settings.signal_senders and senders.is_there(settings.exec_root):
        yield Finding("senders", settings.exec_root, f"program of {senders.SETTING}: it is not wanted")


def _resolver(settings: Settings, records: Records) -> Iterator[Finding]:
    """One that answers nobody; with cortend alive it waits for the next container."""
    pid = resolver.pid_of(settings.exec_root)
    if pid and not records.running and not _holder(settings.data_root):
        yield Finding(
            "resolver", settings.exec_root, f"process {pid}, the resolver of {settings.exec_root}: nobody asks it"
        )


def _tree(path: str, why: str) -> Finding:
    return Finding("tree", path, f"{path}: {why}")


# mending


def _fix(settings: Settings, found: list[Finding]) -> list[Finding]:
    """Removes what it can, processes and mounts first; what is left."""
    lock_fd = dataroot.lock(settings.data_root)
    try:
        for kind in _FIXES:
            for one in found:
                if one.kind == kind:
                    _FIXES[kind](settings, one.name)
                    sys.stdout.write(f"removed: {one.text.partition(':')[0]}\n")
        return examine(settings)
    finally:
        os.close(lock_fd)


def _end_shim(_: Settings, directory: str) -> None:
    """Its container dies with it."""
    if pid := _shim_of(directory):
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if _shim_of(directory) == pid:  # still: a pid may be used again
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], _DEATH_S)
            finally:
                os.close(pidfd)


def _unmount(_: Settings, point: str) -> None:
    mount.umount(point, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _remove_cgroup(_: Settings, path: str) -> None:
    cgroup = Cgroup(plan_paths(hostfacts.gather(), path, ""))
    cgroup.kill_all()
    cgroup.remove()


def _delete_link(_: Settings, name: str) -> None:
    socket = rtnetlink.Socket()
    try:
        netlink.raise_unless(socket.attempt(rtnetlink.delete_link(name)), errno.ENODEV)
    finally:
        socket.close()


def _delete_element(_: Settings, name: str) -> None:
    table, of, element = name.split(" ", 2)
    with Nft() as nft:
        nft.run(f"delete element {FAMILY} {table} {of} {{ {element} }}\n")


def _remove_rules(_: Settings, engine_id: str) -> None:
    """All of them: the next start writes those that are wanted."""
    Legacy(engine_id).remove()
    with Nft() as nft:
        Foreign(engine_id, nft).remove()


def _remove_tree(_: Settings, path: str) -> None:
    remove_tree(path)


def _remove_senders(_: Settings, exec_root: str) -> None:
    senders.remove(exec_root)


def _end_resolver(_: Settings, exec_root: str) -> None:
    resolver.kill(exec_root)


def _strike_out(settings: Settings, entry: str) -> None:
    with closing(sqlite3.connect(f"{settings.data_root}/corten.db", timeout=10)) as database, database:
        database.execute("DELETE FROM journal WHERE id = ?", (int(entry),))


_FIXES: Final[dict[str, Callable[[Settings, str], None]]] = {
    "shim": _end_shim,
    "resolver": _end_resolver,
    "mount": _unmount,
    "cgroup": _remove_cgroup,
    "link": _delete_link,
    "element": _delete_element,
    "rule": _remove_rules,
    "tree": _remove_tree,
    "journal": _strike_out,
    "senders": _remove_senders,
}
