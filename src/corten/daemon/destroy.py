"""`cortend --destroy`: stop and remove everything of one engine.

It works with cortend alive (which is asked to end first), dead, and twice.  What it removes it finds by the engine's
id in the kernel and by the two roots on disk; records are not needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from corten.core import dataroot, imagemounts, resolver
from corten.core.journal import CGROUP
from corten.core.shims import ShimClient
from corten.core.trees import listed, remove_tree
from corten.daemon import execroot, listeners, shimplace, wiring
from corten.engine import senders, sharedmemory
from corten.engine.parts import cgroup_parent
from corten.engine.settings import Settings
from corten.engine.tasks import listener_pid
from corten.errors import Conflict, CortenError, NotFound
from corten.launch.facts import HostFacts
from corten.runtime import hostfacts
from corten.runtime.cgroups import Cgroup, plan_paths
from corten.shim.external import PID_FILE
from corten.shim.protocol import HELPER_SOCKET, connect, encode, receive, send
from corten.sys import mount

log = logging.getLogger("corten.daemon")

_DAEMON_TIMEOUT_S = 15.0
_MAKERS_TIMEOUT_S = 5.0
_CONCURRENT = 64
_HELPER_END_S = 0.5
_HELPER_LOOK_S = 0.01
_HELPER_ANSWER_S = 5.0


def run(settings: Settings) -> int:
    """Remove it all; 0 also when there was nothing."""
    facts = hostfacts.gather()
    has_data = os.path.isdir(settings.data_root)
    if has_data:
        _end_daemon(settings.data_root)
    asyncio.run(_end_tasks(settings.exec_root, facts))
    resolver.kill(settings.exec_root)
    _end_makers(settings.exec_root)
    if has_data:
        stores = wiring.open_stores(settings)
        try:
            _end_cgroups(stores.root.engine_id, facts)
            shimplace.remove(facts, stores.root.engine_id)
            imagemounts.detach_all(stores.images)
            for entry in stores.journal.entries(CGROUP):
                _remove_empty(entry.name, facts)
            stores.bridge.destroy()
            for projects in (stores.snapshots.projects, stores.volumes.projects):
                if projects is not None:
                    projects.end_all()
        finally:
            stores.close()
        _unmount_below(f"{settings.data_root}/volumes")
    elif engine_id := execroot.engine_of(settings.exec_root):  # whose data are gone
        _end_cgroups(engine_id, facts)
        shimplace.remove(facts, engine_id)
    senders.remove(settings.exec_root)
    execroot.remove(settings.exec_root)
    for host in settings.hosts:
        listeners.unlink(host)
    if settings.pidfile:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(settings.pidfile)  # a killed cortend left it
    for path in (settings.exec_root, settings.data_root):
        remove_tree(path)
    log.info("engine of %s destroyed", settings.data_root)
    return 0


def _end_daemon(data_root: str) -> None:
    """End the cortend that holds the lock; returns when it is dead."""
    try:
        os.close(dataroot.lock(data_root))
        return
    except Conflict as held:
        pid = _holder(data_root)
        if not pid:
            raise
        log.info("%s: ending it", held)
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not select.select([pidfd], [], [], _DAEMON_TIMEOUT_S)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [])
        finally:
            os.close(pidfd)


def _holder(data_root: str) -> int:
    """The pid that the holder of the lock wrote into it; 0 when it says none."""
    with open(f"{data_root}/{dataroot.LOCK_NAME}", encoding="ascii", errors="replace") as file:
        text = file.read().strip()
    return int(text) if text.isdecimal() else 0


async def _end_tasks(exec_root: str, facts: HostFacts) -> None:
    """Every task directory, many at once."""
    gate = asyncio.Semaphore(_CONCURRENT)
    with _held_helper(exec_root) as has_helper:

        async def end(directory: str) -> None:
            async with gate:
                await _end_task(directory, facts, has_helper=has_helper)

        await asyncio.gather(*(end(directory) for directory in _task_directories(exec_root)))


@contextlib.contextmanager
def _held_helper(exec_root: str) -> Iterator[bool]:
    """Whether there is a helper that shims may ask; it stays until the end of the block.

    One that is there for health checks alone would go with the first container, and the others' shims wait for it.
    """
    if not _has_helper(exec_root):
        yield False
        return
    with contextlib.ExitStack() as stack:
        try:
            helper = stack.enter_context(connect(exec_root, HELPER_SOCKET))
            send(helper, encode({"op": "stay"}))
            select.select([helper], [], [], _HELPER_ANSWER_S)
            stays = bool(receive(helper)[0])
        except BlockingIOError:  # it has much to do
            stays = True
        except OSError:
            stays = False
        yield stays


def _has_helper(exec_root: str) -> bool:
    """Whether there is one that shims may ask: it ends with the zygote, unless it stays for health checks."""
    until = time.monotonic() + _HELPER_END_S
    while time.monotonic() < until:
        try:
            connect(exec_root, HELPER_SOCKET).close()
        except BlockingIOError:
            return True
        except OSError:
            return False
        time.sleep(_HELPER_LOOK_S)
    return True


async def _end_task(directory: str, facts: HostFacts, *, has_helper: bool) -> None:
    """Its shim told to end it, or killed; what is left of its container killed.

    Without a helper the built-in runtime has nobody to end a container by: its shim would wait for one, for seconds.
    """
    cgroup = _cgroup_of(directory, facts)
    if not has_helper and not os.path.exists(f"{directory}/{PID_FILE}"):
        _kill_shim(directory)
    try:
        shim, _ = await ShimClient.connect(directory, events=_ignore, lost=_ignore_loss)
        await shim.shutdown(force=True)
        shim.close()
    except NotFound:
        log.debug("task %s has no shim", directory)
    except CortenError as error:
        log.warning("task %s: %s", directory, error)
        _kill_shim(directory)
    if cgroup is not None:
        cgroup.kill_all()
        cgroup.remove()
        _remove_empty(_parent_of(directory), facts)
    sharedmemory.release(directory)


def _end_makers(exec_root: str) -> None:
    """The zygote and its helper, which end by themselves with cortend; returns when they are dead."""
    for pidfd in _makers(exec_root):
        with contextlib.suppress(ProcessLookupError):
            if not select.select([pidfd], [], [], _MAKERS_TIMEOUT_S)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [])


def _makers(exec_root: str) -> Iterator[int]:
    """Descriptors of the zygote, then of the helper, closed here.

    Nobody else knows them when their cortend was killed: they are found by their command lines.
    """
    root = os.fsencode(exec_root)
    for is_maker in (_is_zygote, _is_helper):
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if not is_maker(_command_line(name), root):
                    continue
                pidfd = os.pidfd_open(int(name))
                try:
                    if is_maker(_command_line(name), root):  # still: the descriptor is of nobody else
                        yield pidfd
                finally:
                    os.close(pidfd)


def _command_line(pid: str) -> list[bytes]:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")


def _is_zygote(words: list[bytes], root: bytes) -> bool:
    return b"--zygote" in words and (b"--exec-root", root) in itertools.pairwise(words)


def _is_helper(words: list[bytes], root: bytes) -> bool:
    return words[0] == b"corten-shim helper " + root


def _task_directories(exec_root: str) -> Iterator[str]:
    tasks = f"{exec_root}/{execroot.TASKS}"
    for tenant in listed(tasks):
        for name in listed(f"{tasks}/{tenant}"):
            yield f"{tasks}/{tenant}/{name}"


def _cgroup_of(directory: str, facts: HostFacts) -> Cgroup | None:
    path = _cgroup_path_of(directory)
    return Cgroup(plan_paths(facts, path, "")) if path else None


def _cgroup_path_of(directory: str) -> str:
    """From its config.json: also a --cgroup-parent of the user's own."""
    try:
        with open(f"{directory}/config.json", "rb") as file:
            return str(msgspec.json.decode(file.read())["linux"]["cgroupsPath"])
    except (FileNotFoundError, msgspec.DecodeError, KeyError):
        return ""


def _parent_of(directory: str) -> str:
    """The engine's own parent cgroup, when that is where the task's is: a user's parent is the user's."""
    parent = os.path.dirname(_cgroup_path_of(directory))
    return parent if parent.startswith(cgroup_parent("")) else ""


def _remove_empty(path: str, facts: HostFacts) -> None:
    """A cgroup in which nobody is any more; others stay."""
    for directory in plan_paths(facts, path, "").directories() if path else ():
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _kill_shim(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.kill(listener_pid(directory), signal.SIGKILL)


def _end_cgroups(engine_id: str, facts: HostFacts) -> None:
    """What is left in the engine's parent cgroup, and that."""
    parent = plan_paths(facts, cgroup_parent(engine_id), "")
    names = {name for path in parent.directories() for name in listed(path) if os.path.isdir(f"{path}/{name}")}
    for name in sorted(names):
        cgroup = Cgroup(plan_paths(facts, f"{cgroup_parent(engine_id)}/{name}", ""))
        cgroup.kill_all()
        cgroup.remove()
    Cgroup(parent).remove()


def _unmount_below(path: str) -> None:
    """What volumes had mounted: not ours to remove."""
    root = os.path.realpath(path) + "/"
    for point in reversed(mount.mount_points()):
        if point.startswith(root):
            mount.umount(point, mount.MNT_DETACH)


def _ignore(message: dict[str, Any]) -> None:
    """An event of a task that is being ended."""


def _ignore_loss() -> None:
    """Its end."""
