"""Starting a container: a list of steps, each undone when a later one fails (design.md §3, steps 5–9).

look      user, devices, namespaces of other containers; nothing is made
task      journal, directory; the zygote begins to fork the shim
network   namespace, veth, address; published ports
files     hostname, hosts, resolv.conf
volumes   there, mounted when they have to be; subpaths bound where nobody swaps names
shim      the fork is waited for
bundle    config.json
create    the shim makes overlay, cgroup and container; its init waits
attach    clients that came before the start are handed over
start     the init executes the program
record    one transaction: it runs
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.core.shims import CreateRequest, ShimClient
from corten.core.snapshots import Mount
from corten.engine import blockio, cdi, devices, healthcheck, hostfiles, launcherrors, links, logconfig, mapped, oci
from corten.engine.accounts import AccountBook, find_user
from corten.engine.attachments import Attachment, Attachments, relays_of
from corten.engine.cdispec import Edits
from corten.engine.checks import check_runtime
from corten.engine.container import Container
from corten.engine.effective import Effective
from corten.engine.events import container_event
from corten.engine.links import Link
from corten.engine.naming import Naming
from corten.engine.oci import Surroundings
from corten.engine.parts import Parts
from corten.engine.phases import Phases
from corten.engine.realtime import prepare as prepare_realtime
from corten.engine.record import Move, Place, Status, advance
from corten.engine.settings import Runtime
from corten.engine.sharedmemory import SharedMemory, release
from corten.engine.sources import prepare as prepare_source
from corten.engine.streams import Streams
from corten.engine.tasks import Task
from corten.engine.times import from_rfc3339, rfc3339
from corten.engine.usernamespaces import fd_path
from corten.engine.users import User
from corten.engine.verdict import Failure, failure_of, judge_failure
from corten.engine.volumemounts import VolumeMounts
from corten.errors import Conflict, CortenError, Internal, InvalidArgument, NotModified
from corten.shim.protocol import NETNS_FD
from corten.spec.docker import ExecConfig

CONFIG_NAME: Final = "config.json"
ROOTFS_NAME: Final = "rootfs"

ShimEvents = Callable[[Container, Task, dict[str, Any]], None]
ShimLost = Callable[[Container, Task], None]


class Run:
    """What one start has found and made so far."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.effective: Effective = container.record.effective
        self.phases = Phases()
        self.sandbox_id = ""
        self.attached: tuple[Attachment, ...] = ()
        self.places: dict[str, str] = {}  # endpoint ids by network
        self.network_pid = 0  # of the container whose network is joined
        self.netns_fd, self.userns_fd = -1, -1
        self.userns = ""  # the path of the user namespace that is joined
        self.held: dict[str, int] = {}
        self.mounts: list[Mount] = []
        self.user = User(0, 0, (0,))
        self.runtime = Runtime("")
        self.namespaces: dict[str, str | None] = {}
        self.shm_source, self.step = "", ""
        self.devices: tuple[list[Any], list[Any]] = ([], [])
        self.block_io: dict[str, Any] = {}
        self.cdi_edits: tuple[Edits, list[Any]] = (Edits(), [])
        self.links: list[Link] = []
        self.task: Task | None = None
        self.health: dict[str, Any] = {}  # the check as the shim is told of it
        self.fork: asyncio.Task[ShimClient] | None = None
        self.started: dict[str, Any] = {}
        self.subpaths = ExitStack()

    @property
    def shim(self) -> ShimClient:
        """The shim, once it was waited for."""
        assert self.task is not None
        assert self.task.shim is not None
        return self.task.shim


Step = Callable[[Run, AsyncExitStack], Awaitable[None]]


class Starter:
    """Starts containers.  `events` and `lost` are what their shims will tell."""

    def __init__(
        self, parts: Parts, streams: Streams, shared_memory: SharedMemory, *, events: ShimEvents, lost: ShimLost
    ) -> None:
        self._parts = parts
        self._streams = streams
        self._shared_memory = shared_memory
        self._events = events
        self._lost = lost
        self.volume_mounts: VolumeMounts  # given by the engine
        self.naming: Naming | None = None  # likewise
        self.begun: Callable[[Container], None]  # of a run
        self._attachments = Attachments(parts)
        self._accounts = AccountBook(f"{parts.settings.exec_root}/empty")
        self._steps: tuple[tuple[str, Step], ...] = (
            ("look", self._look),
            ("task", self._begin_task),
            ("network", self._join_network),
            ("files", self._write_files),
            ("volumes", self._place_volumes),
            ("shim", self._await_shim),
            ("bundle", self._write_bundle),
            ("create", self._create),
            ("attach", self._attach),
            ("start", self._start),
            ("record", self._record),
        )

    async def start(self, container: Container) -> None:
        """Start it; the caller holds its lock.

        Raises NotModified when it runs, Conflict when it cannot be started, else what made it fail, after everything
        was undone and the failure recorded.
        """
        check_startable(container)
        if container.cleanup is not None:
            await asyncio.wait([container.cleanup])
        await self._parts.views.leave(container.id, f"container {container.id} is being started")
        run = Run(container)
        try:
            async with AsyncExitStack() as undo:
                for name, step in self._steps:
                    run.step = name
                    with run.phases.measure(name):
                        await step(run, undo)
                undo.pop_all()
        except CortenError as error:
            raise self._failed(container, error, failure_of(run.step, error)) from error
        except OSError as error:
            told = Internal(f"{error.filename or 'start'}: {error.strerror}")
            raise self._failed(container, told, failure_of(run.step, error)) from error
        finally:
            _close(run)
        container.phases = run.phases.rows
        if container.held_streams:  # of clients that came after `attach` and before `record`
            await self._streams.hand_over(container, run.shim)

    def _failed(self, container: Container, error: CortenError, failure: Failure) -> CortenError:
        """Record why it did not start; the state stays what it was."""
        code = launcherrors.FAILED_START
        if error.text.startswith(launcherrors.CREATE_PREFIX):
            code = launcherrors.exit_code(error.text)
        death = judge_failure(failure, code, rfc3339(time.time_ns()))
        record = container.record.with_state(error=error.text, exit_code=code, pid=0, shim_pid=0, death=death)
        self._parts.note(container, replace(record, place=record.place.left()))
        container.task = None
        container.endpoints.clear()
        self._streams.drop(container)
        return error

    # Steps

    async def _look(self, run: Run, undo: AsyncExitStack) -> None:
        parts, record, host = self._parts, run.container.record, run.effective.host
        check_runtime(host.runtime, parts.settings)  # a reload may have taken it away
        run.runtime = parts.settings.runtimes[host.runtime]
        run.mounts = parts.snapshots.mounts(run.container.id)
        accounts = self._accounts.of(record.image_id, run.mounts[0])
        run.user = await find_user(run.effective.config.user, accounts, host.group_add or ())
        mapped.check_user(run.user, run.effective.id_map)
        run.mounts = [mapped.root(one, run.effective.id_map, parts.user_namespaces) for one in run.mounts]
        launcherrors.check(run.effective)
        await self._look_at_host(run)
        run.devices[1].extend(devices.cgroup_rules(host.device_cgroup_rules or ()))
        prepare_realtime(self._parts.settings, run.container.record.cgroup)
        self._find_namespaces(run)
        self._find_links(run)

    def _find_links(self, run: Run) -> None:
        run.links = links.live(run.container, self._parts.roster)
        if run.links:
            lent = links.environment(run.container, run.links)
            config = run.effective.config
            run.effective = replace(run.effective, config=replace(config, env=[*lent, *(config.env or ())]))

    async def _look_at_host(self, run: Run) -> None:
        """Makes and checks bind sources; the devices of `--device` and their rules.  Path by path: see `looks`."""
        looks, points = self._parts.host_looks, []
        for point in run.effective.mounts:
            prepare = functools.partial(prepare_source, point)
            is_bind = point.kind == "bind"
            points.append(await looks.look("bind source", point.source, prepare) if is_bind else point)
        run.effective = replace(run.effective, mounts=tuple(points))
        for mapping in run.effective.host.devices or ():
            nodes, rules = await devices.look(looks, mapping)
            run.devices[0].extend(nodes)
            run.devices[1].extend(rules)
        run.block_io = await blockio.look(looks, run.effective.host)
        run.cdi_edits = await cdi.look(self._parts, run.effective.host.device_requests or ())

    def _find_namespaces(self, run: Run) -> None:
        """Which namespaces are new (""), the host's (None) or another container's (a path)."""
        host = run.effective.host
        run.namespaces = {
            "uts": None if host.uts_mode == "host" else "",
            "pid": self._joined(host.pid_mode, "pid"),
            "ipc": self._joined(host.ipc_mode, "ipc"),
        }
        if run.effective.id_map is not None and (lender := mapped.lender(run.effective, self._parts.roster)):
            run.userns = f"/proc/{lender.record.state.pid}/ns/user"
        mode = run.effective.network
        if mode.startswith("container:"):
            other = self._network_owner(mode)
            run.network_pid = other.record.state.pid
            config = replace(run.effective.config, hostname=other.record.effective.config.hostname)
            run.effective = replace(run.effective, config=config)
        run.attached = self._attachments.wanted(run.effective)

    def _joined(self, mode: str, kind: str) -> str | None:
        prefix, colon, ref = mode.partition(":")
        if prefix == "host":
            return None
        if prefix != "container" or not colon:
            return ""
        other = self._parts.roster.find(ref)
        title = kind.upper()
        if not other.is_running:
            raise Internal(f"failed to join {title} namespace: container {other.id} is not running")
        if kind == "ipc" and other.record.effective.host.ipc_mode != "shareable":
            hint = "non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            raise InvalidArgument(f"failed to join IPC namespace: container {other.id}: {hint}")
        return f"/proc/{other.record.state.pid}/ns/{kind}"

    def _network_owner(self, mode: str) -> Container:
        other = self._parts.roster.find(mode.partition(":")[2])
        if not other.is_running:
            raise Conflict(f"cannot join network of a non running container: {other.id}")
        return other

    async def _begin_task(self, run: Run, undo: AsyncExitStack) -> None:
        container = run.container
        release(self._parts.tasks.directory(container.id))
        await self._parts.tasks.bury_leftover(container.id, container.record.cgroup)
        run.task = task = self._parts.tasks.prepare(container.id, container.record.cgroup)
        undo.push_async_callback(self._parts.tasks.end, task)
        run.shm_source = self._shared_memory.source(container, task)
        undo.callback(self._shared_memory.release, task)
        run.fork = self._parts.loop.create_task(
            self._parts.tasks.fork(
                task,
                events=lambda message: self._events(container, task, message),
                lost=lambda: self._lost(container, task),
            )
        )
        undo.push_async_callback(_settle, run.fork)
        await asyncio.sleep(0)  # the zygote has the request, and forks while network and files are made here

    async def _join_network(self, run: Run, undo: AsyncExitStack) -> None:
        mode = run.effective.network
        if mode.startswith("container:"):
            return
        run.sandbox_id = secrets.token_hex(32)
        if mode != "host":
            await self._make_namespaces(run)
        run.places, ports = self._attachments.join(run.container, run.attached, run.netns_fd, undo)
        run.held.update(ports)
        if self.naming is not None:
            undo.push_async_callback(self.naming.end, run.container)
            await self.naming.begin(run.container, run.attached, run.netns_fd)

    async def _make_namespaces(self, run: Run) -> None:
        id_map = run.effective.id_map
        if id_map is None:
            run.netns_fd = await self._parts.tasks.netns()
        else:
            pair = await self._parts.user_namespaces.pair(id_map, joined=run.userns)
            run.userns_fd, run.userns, run.netns_fd = pair.user_fd, fd_path(pair.user_fd), pair.network_fd
        run.held["netns"] = run.netns_fd

    async def _write_files(self, run: Run, undo: AsyncExitStack) -> None:
        if run.network_pid:
            return
        container, roster = run.container, self._parts.roster
        self._write_files_of(container, run.effective, run.links)
        for parent in links.parents(container, roster):  # the address may be another than the last time
            self._write_files_of(parent, parent.record.effective, links.up(parent, roster))

    def _write_files_of(self, container: Container, effective: Effective, linked: Sequence[Link]) -> None:
        hostfiles.write(
            effective,
            self._parts.paths(container.id),
            addresses=[one.ip for each in container.endpoints.values() for one in each.addresses],
            gateway=self._parts.bridge.own_address,
            settings=self._parts.settings,
            linked=links.hosts(linked),
        )

    async def _place_volumes(self, run: Run, undo: AsyncExitStack) -> None:
        if not run.effective.mounts:
            return
        points = await self.volume_mounts.acquire(run.container, run.effective.mounts)
        undo.push_async_callback(self.volume_mounts.release, run.container)
        undo.callback(run.subpaths.close)
        points = await self.volume_mounts.bind_subpaths(points, run.subpaths, id_map=run.effective.id_map)
        run.effective = replace(run.effective, mounts=tuple(points))

    async def _await_shim(self, run: Run, undo: AsyncExitStack) -> None:
        assert run.fork is not None
        await run.fork

    async def _write_bundle(self, run: Run, undo: AsyncExitStack) -> None:
        assert run.task is not None
        config = oci.config(run.effective, self._surroundings(run, run.task))
        cdi.apply(config, *run.cdi_edits)
        run.health = _health(run, config["process"])
        with open(f"{run.task.directory}/{CONFIG_NAME}", "wb") as file:
            file.write(msgspec.json.encode(config))

    def _surroundings(self, run: Run, task: Task) -> Surroundings:
        parts, host = self._parts, run.effective.host
        owner = run.effective.network.partition(":")[2] if run.network_pid else run.container.id
        paths = parts.paths(owner)
        runtime = run.runtime
        return Surroundings(
            machine=parts.machine,
            rootfs=f"{task.directory}/{ROOTFS_NAME}",
            cgroup=run.container.record.cgroup,
            user=run.user,
            hostname_file=paths.hostname,
            hosts_file=paths.hosts,
            resolv_file=paths.resolv_conf,
            network=self._network_path(run),
            uts=run.namespaces["uts"],
            userns=run.userns,
            pid=run.namespaces["pid"],
            ipc=run.namespaces["ipc"],
            shm_source=run.shm_source,
            init_binary=parts.init_binary,
            host_devices=devices.every_device() if host.privileged else (),
            mapped_devices=run.devices[0],
            device_rules=run.devices[1],
            block_io=run.block_io,
            external_runtime=bool(runtime.path),
        )

    def _network_path(self, run: Run) -> str | None:
        if run.network_pid:
            return f"/proc/{run.network_pid}/ns/net"
        if run.effective.network == "host":
            return None
        return f"/proc/{run.shim.pid}/fd/{NETNS_FD}"

    async def _create(self, run: Run, undo: AsyncExitStack) -> None:
        parts, config, host, runtime = self._parts, run.effective.config, run.effective.host, run.runtime
        size, directory = host.console_size, parts.paths(run.container.id).directory
        request = CreateRequest(
            rootfs=[msgspec.to_builtins(mount) for mount in run.mounts],
            terminal=config.tty,
            stdin_open=config.open_stdin,
            console_size=size if any(size) else None,
            log=logconfig.request(run.effective, logconfig.identity(run.container.record), directory),
            runtime_path=runtime.path,
            runtime_args=runtime.args,
            default_pids_limit=run.effective.pids_limit,
            health=run.health,
        )
        try:
            made = await run.shim.create(request, hold=run.held, relays=relays_of(*run.container.endpoints.values()))
        except CortenError as error:
            raise launcherrors.start_error(error)[0] from error
        self._watch(run, int(made.get("pid", 0)), undo)
        run.subpaths.close()  # it has its own binds of them

    def _watch(self, run: Run, pid: int, undo: AsyncExitStack) -> None:
        """Before its program can do anything."""
        senders = self._parts.senders
        if senders.is_active:
            cgroup = self._parts.tasks.cgroup(run.container.record.cgroup).paths.v2
            senders.watch(pid, run.shim.pid, cgroup=cgroup)
            undo.callback(senders.forget, pid, run.shim.pid, cgroup=cgroup)

    async def _attach(self, run: Run, undo: AsyncExitStack) -> None:
        await self._streams.hand_over(run.container, run.shim)

    async def _start(self, run: Run, undo: AsyncExitStack) -> None:
        try:
            run.started = await run.shim.start()
        except CortenError as error:
            raise launcherrors.start_error(error)[0] from error

    async def _record(self, run: Run, undo: AsyncExitStack) -> None:
        container, parts = run.container, self._parts
        record = container.record.with_state(
            status=advance(container.record.state.status, Move.START),
            pid=int(run.started["pid"]),
            shim_pid=run.shim.pid,
            exit_code=0,
            error="",
            verdict="",
            oom_killed=False,
            oom_kills=0,
            calls=(),
            calls_sequence=-1,
            started_ns=from_rfc3339(run.started["started_at"]) or time.time_ns(),
            health=container.record.fresh_health(),
        )
        place = Place(
            networks=run.places,
            sandbox_id=run.sandbox_id,
            sandbox_key=f"/proc/{run.shim.pid}/fd/{NETNS_FD}" if run.sandbox_id else "",
        )
        container.task = run.task
        container.kills = []
        parts.save(container, replace(record, place=place))
        if self.naming is not None:
            self.naming.started(container)
        self._attachments.tell(container, "connect", run.places)
        self.volume_mounts.tell_mount(container)
        parts.bus.publish(container_event(container.record, "start"))
        self.begun(container)


def _health(run: Run, process: dict[str, Any]) -> dict[str, Any]:
    """Its check, whose probes are execs as the container's own user; {} without one."""
    config = run.effective.config
    command = healthcheck.command(config)
    if command is None:
        return {}
    return healthcheck.settings(config, oci.exec_process(process, config, ExecConfig(cmd=command), run.user))


def check_startable(container: Container) -> None:
    """Raises NotModified or Conflict in Docker's words."""
    match container.record.state.status:
        case Status.RUNNING:
            raise NotModified(f"container {container.id} is already running")
        case Status.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        case Status.REMOVING | Status.DEAD:
            raise Conflict("container is marked for removal and cannot be started")
        case _:
            return


async def _settle(fork: asyncio.Task[ShimClient]) -> None:
    """Wait for a fork whose start has failed, so that its task can be ended."""
    await asyncio.wait([fork])


def _close(run: Run) -> None:
    """This process's copies of what the shim holds now."""
    for fd in (*run.held.values(), *([run.userns_fd] if run.userns_fd >= 0 else [])):
        os.close(fd)
