"""cortend's side of the shim protocol (docs/shim.md), on asyncio: the zygote's supervisor and one client per shim.

    Zygote      start → fork (a dead zygote is started again) → close
    ShimClient  from Zygote.fork, or `ShimClient.connect(dir)` for adoption → requests → close, or `on_lost`

Nothing here waits for ever unless told so: a shim that does not answer raises Unavailable after `timeout_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from corten.core.channel import Channel, EventHandler, LostHandler
from corten.core.shimrequests import Attach, CreateRequest, LogRequest
from corten.errors import NotFound, Unavailable
from corten.shim import protocol
from corten.shim.protocol import Message, connect

__all__ = ["Attach", "CreateRequest", "EventHandler", "LogRequest", "LostHandler", "ShimClient", "Zygote"]

log = logging.getLogger("corten.core")

Target = tuple[str, int]  # an address and a port

PING_TIMEOUT_S = 2.0
TIMEOUT_S = 10.0
SLOW_TIMEOUT_S = 300.0  # hooks and external runtimes
_HELD_AT_ONCE = 200  # descriptors in one message: protocol.MAX_FDS
_ZYGOTE_TIMEOUT_S = 10.0
_ZYGOTE_HANGS_S = 20.0  # without an answer to a ping after a request without one: it is ended
_ZYGOTE_START_S = 60.0  # it imports everything and rehearses a start: half a second, but not on every machine
_ZYGOTE_END_S = 5.0  # from the end of its socket
_ZYGOTE_SHORT_LIFE_S = 10.0  # who ends by itself before is not started again at once
_ZYGOTE_PAUSE_S = 1.0  # twice as long each time
_ZYGOTE_PAUSE_LIMIT_S = 60.0


class ShimClient:
    """One shim.  `events` gets `exit`, `exec-exit`, `oom` and `detach`; `lost` is called once when the shim is gone.

    Both are called from the event loop, also while a request is under way, and must not block.
    """

    def __init__(self, sock: socket.socket, directory: str, *, events: EventHandler, lost: LostHandler) -> None:
        """Takes the connected socket."""
        self.directory = directory
        self.pid = 0
        name = f"shim of {os.path.basename(directory)}"
        self._channel = Channel(sock, name=name, on_event=events, on_lost=lost)

    @classmethod
    async def connect(cls, directory: str, *, events: EventHandler, lost: LostHandler) -> tuple[ShimClient, Message]:
        """Adopt the shim of a task's directory: (client, its `hello`).

        Raises:
            NotFound: no shim lives there, or it was about to end.
            Unavailable: it does not answer.
        """
        try:
            sock = connect(directory)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotFound(f"no shim in {directory}") from error
        except BlockingIOError as error:
            raise Unavailable(f"shim in {directory} does not accept connections") from error
        client = cls(sock, directory, events=events, lost=lost)
        try:
            return client, await client.hello()
        except Unavailable as error:
            if not client.is_open:  # a process that is killed closes its listener behind its connections
                raise NotFound(f"no shim in {directory}: it has just ended") from error
            client.close()
            raise

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    def close(self) -> None:
        """Disconnect; the shim and its container go on."""
        self._channel.close()

    async def request(
        self, op: str, *, fds: Sequence[int] = (), timeout_s: float | None = TIMEOUT_S, **fields: Any
    ) -> Message:
        """Any op.  Raises the shim's error, or Unavailable when it does not answer or is gone."""
        answer, received = await self._channel.request(op, fields, fds, timeout_s)
        protocol.close_all(received)
        return answer

    # Looking

    async def hello(self) -> Message:
        """The whole status: pid, state, init_pid, exit, execs, held, phases, …"""
        status = await self.request("hello", version=protocol.VERSION, timeout_s=PING_TIMEOUT_S)
        self.pid = int(status["pid"])
        return status

    async def ping(self) -> None:
        """Raises Unavailable when the shim hangs."""
        await self.request("ping", timeout_s=PING_TIMEOUT_S)

    async def pids(self) -> list[int]:
        """Every process of the container."""
        return list((await self.request("pids", timeout_s=PING_TIMEOUT_S))["pids"])

    async def stats(self) -> Message:
        """A sample as `corten.runtime.cgroup_stats` shapes it."""
        stats: Message = (await self.request("stats", timeout_s=PING_TIMEOUT_S))["stats"]
        return stats

    async def counters(self) -> Message:
        """{"oom_kill_count", "pids_max_hits"}."""
        return await self.request("counters", timeout_s=PING_TIMEOUT_S)

    async def trace(self) -> Message:
        """{"phases": […], "steps": […]} of the start."""
        trace: Message = (await self.request("trace"))["trace"]
        return trace

    async def exec_status(self, exec_id: str) -> Message:
        """{"pid", "state", "status", …} of an exec.  Raises NotFound."""
        return await self.request("exec_status", exec_id=exec_id, timeout_s=PING_TIMEOUT_S)

    async def rootfs(self) -> int:
        """An O_PATH descriptor of the container's root mount; the caller's.  FailedPrecondition without one."""
        _, fds = await self._channel.request("rootfs", {}, (), PING_TIMEOUT_S)
        if not fds:
            raise Unavailable("the shim sent no descriptor")
        protocol.close_all(fds[1:])
        return fds[0]

    # Life

    async def create(
        self,
        request: CreateRequest,
        *,
        hold: Mapping[str, int] | None = None,
        relays: Mapping[str, Target] | None = None,
    ) -> Message:
        """{"pid"} of the waiting init.  `hold`: descriptors to keep, `netns` and `port:…`; they stay yours as well.

        `relays`: as of `hold`.
        """
        held, many = hold or {}, relays or {}
        if len(held) > _HELD_AT_ONCE:
            await self.hold(held, relays=many)
            held, many = {}, {}
        fields = request.to_message() | {"held": [*held], **({"relays": many} if many else {})}
        return await self.request("create", fds=[*held.values()], timeout_s=SLOW_TIMEOUT_S, **fields)

    async def start(self) -> Message:
        """{"pid", "started_at"}.  Raises what the launcher or runtime says."""
        return await self.request("start", timeout_s=SLOW_TIMEOUT_S)

    async def kill(self, signum: int, exec_id: str = "", *, by: Message | None = None) -> None:
        """Signal the init or an exec; `by` goes to the exit record.  Raises FailedPrecondition when it is dead."""
        await self.request("kill", signal=signum, exec_id=exec_id, by=by or {}, timeout_s=PING_TIMEOUT_S)

    async def kill_all(self, signum: int) -> None:
        """Signal every process of the container."""
        await self.request("kill_all", signal=signum, timeout_s=SLOW_TIMEOUT_S)

    async def pause(self) -> None:
        """Freeze the container."""
        await self.request("pause", timeout_s=SLOW_TIMEOUT_S)

    async def resume(self) -> None:
        """Thaw it."""
        await self.request("resume", timeout_s=SLOW_TIMEOUT_S)

    async def update(self, resources: Mapping[str, Any]) -> None:
        """New limits: an OCI resources object."""
        await self.request("update", resources=dict(resources), timeout_s=SLOW_TIMEOUT_S)

    async def delete(self, *, force: bool = False) -> Message | None:
        """Remove the container; the exit record, None when it never ran."""
        exit_record: Message | None = (await self.request("delete", force=force, timeout_s=SLOW_TIMEOUT_S)).get("exit")
        return exit_record

    async def shutdown(self, *, force: bool = False) -> None:
        """End the shim.  `lost` is called when it closes the connection, unless `close` comes first."""
        await self.request("shutdown", force=force, timeout_s=SLOW_TIMEOUT_S)

    # Streams

    async def attach(self, stream_fd: int, attach: Attach, exec_id: str = "") -> None:
        """Hand a client's connection over; close your descriptor afterwards."""
        await self.request("attach", fds=[stream_fd], exec_id=exec_id, **attach.to_message())

    async def exec_start(
        self,
        exec_id: str,
        process: Mapping[str, Any],
        *,
        terminal: bool = False,
        stdin_open: bool = False,
        console_size: tuple[int, int] | None = None,
        attach: Attach | None = None,
        stream_fd: int = -1,
    ) -> Message:
        """Run a process (OCI process object), attached to `stream_fd` if `attach` says how; its status with pid."""
        fields: Message = {"exec_id": exec_id, "process": dict(process), "terminal": terminal, "stdin_open": stdin_open}
        fields["console_size"] = list(console_size or ())
        fds: list[int] = []
        if attach is not None:
            fields["attach"] = attach.to_message()
            fds.append(stream_fd)
        return await self.request("exec_start", fds=fds, timeout_s=SLOW_TIMEOUT_S, **fields)

    async def exec_forget(self, exec_id: str) -> None:
        """Let the shim forget a finished exec."""
        await self.request("exec_forget", exec_id=exec_id)

    async def resize(self, rows: int, cols: int, exec_id: str = "") -> None:
        """Size of a terminal; without one nothing happens."""
        await self.request("resize", rows=rows, cols=cols, exec_id=exec_id)

    async def close_stdin(self, exec_id: str = "") -> None:
        """End of input."""
        await self.request("close_stdin", exec_id=exec_id)

    # Descriptors

    async def hold(self, fds: Mapping[str, int], *, relays: Mapping[str, Target] | None = None) -> None:
        """Give the shim descriptors to keep until `release` or `delete`; they stay yours as well.

        `relays`: where to pass on what comes to a held socket, one of before as well: (address, port) by name.
        """
        left, names = dict(relays or {}), [*fds]
        for start in range(0, max(1, len(names)), _HELD_AT_ONCE):
            part = names[start : start + _HELD_AT_ONCE]
            is_last = start + _HELD_AT_ONCE >= len(names)
            theirs = {name: left[name] for name in (left if is_last else [one for one in part if one in left])}
            for name in theirs:
                del left[name]
            await self.request("hold", fds=[fds[name] for name in part], held=part, relays=theirs)

    async def release(self, names: Sequence[str]) -> None:
        """Let the shim close held descriptors."""
        await self.request("release", names=list(names))


class Zygote:
    """Runs `corten-shim --zygote` and starts it again when it died, at once: shims need its helper for their execs.

    One that dies by itself at its start is started again after a pause, and for every request; likewise the second in a
    row that is killed (by the kernel, for memory?) at its start, before it has done anything.
    """

    def __init__(
        self,
        program: str,
        exec_root: str,
        *,
        open_files: int = -1,
        debug: bool = False,
        joins: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`program`: path of corten-shim; `open_files`: the soft limit that shims and containers get, not below 0.

        `joins` makes the cgroup that shims are to be in, at each start: its files, to which the zygote writes 0 before
        all else.
        """
        self._argv = [program, "--zygote", "--exec-root", exec_root, *(["--debug"] if debug else [])]
        if open_files >= 0:
            self._argv.append(f"--open-files={open_files}")
        self._joins = joins
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._starting = asyncio.Lock()
        self._restarting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._doubted: asyncio.Task[None] | None = None
        self._is_closed = False
        self._began = 0.0
        self._has_served = False
        self._failures = 0  # in a row
        self._was_killed = False  # the one before, before it had done anything

    @property
    def pid(self) -> int:
        """0 before `start`."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Execute the zygote, unless one lives; returns when it answers.  Raises Unavailable."""
        async with self._starting:
            if self._channel is not None and self._channel.is_open:
                return
            if self._process is not None:
                self._reap(self._process)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                joins = [f"--join={file}" for file in self._joins()]
                argv = [*self._argv, *joins, "--control-fd", str(theirs.fileno())]
                process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            self._process = process
            self._began = time.monotonic()
            self._has_served = False
            lost = partial(self._lost, process)
            channel = self._channel = Channel(ours, name="zygote", on_event=lambda event: None, on_lost=lost)
            try:
                await channel.request("ping", {}, (), _ZYGOTE_START_S)
            except Unavailable as error:
                if channel.is_open:
                    raise
                raise Unavailable("zygote does not start: see the log of cortend") from error

    async def fork(
        self, directory: str, tenant: str, id: str, *, events: EventHandler, lost: LostHandler
    ) -> ShimClient:
        """A new shim for a task's directory, connected; `ShimClient.pid` is set."""
        answer, fds = await self._request("fork", {"dir": directory, "tenant": tenant, "id": id})
        client = ShimClient(socket.socket(fileno=fds[0]), directory, events=events, lost=lost)
        client.pid = int(answer["pid"])
        return client

    async def resolver(self) -> socket.socket:
        """A new resolver for the engine's exec-root (`corten.shim.resolver`): the first connection to it."""
        _, fds = await self._request("names", {})
        return socket.socket(fileno=fds[0])

    async def close(self) -> None:
        """End the zygote; shims go on."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._restarting, self._doubted):
            if task is not None:
                task.cancel()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            await asyncio.to_thread(_end, self._process, _ZYGOTE_END_S)
            self._process = None

    async def _request(self, op: str, fields: Mapping[str, Any]) -> tuple[Message, list[int]]:
        """One request; if the zygote dies under it, one more with a new zygote.

        One that hangs and goes on does nothing for a request that was given up: see `until`.
        """
        for attempt in (1, 2):
            await self.start()
            channel, pid = self._channel, self.pid
            assert channel is not None
            until = time.monotonic() + _ZYGOTE_TIMEOUT_S
            try:
                answer, fds = await channel.request(op, {**fields, "until": until}, (), _ZYGOTE_TIMEOUT_S)
            except Unavailable as error:
                if channel.is_open:
                    self._doubt(channel, pid)
                    way_out = f"try again in {_ZYGOTE_HANGS_S:g} s, when it answers or was replaced"
                    raise Unavailable(f"{error.text}, process {pid}: {way_out}") from error
                if attempt == 2:
                    raise
                continue
            self._has_served = True
            if not fds:
                raise Unavailable(f"zygote answered {op} without a descriptor")
            protocol.close_all(fds[1:])
            return answer, fds[:1]
        raise Unavailable("zygote is gone")

    def _doubt(self, channel: Channel, pid: int) -> None:
        """One that is slow is left alone, one that hangs is ended: the end of its socket starts the next."""
        if self._doubted is None or self._doubted.done():
            log.warning("zygote (process %d) does not answer", pid)
            self._doubted = asyncio.ensure_future(self._end_if_it_hangs(channel))

    async def _end_if_it_hangs(self, channel: Channel) -> None:
        try:
            await channel.request("ping", {}, (), _ZYGOTE_HANGS_S)
        except Unavailable:
            if channel is self._channel and channel.is_open and self._process is not None:
                log.warning("zygote (process %d) hangs: killed", self.pid)
                self._process.kill()

    def _lost(self, process: subprocess.Popen[bytes]) -> None:
        """At once for one that had lived, or was killed once, else after a pause."""
        self._reap(process)
        if self._is_closed:
            return
        is_killed = process.returncode == -signal.SIGKILL
        is_short = time.monotonic() - self._began < _ZYGOTE_SHORT_LIFE_S and not (is_killed and self._has_served)
        has_failed = is_short and (self._was_killed or self._failures > 0 or not is_killed)
        self._was_killed = is_short and not has_failed
        pause_s = min(_ZYGOTE_PAUSE_S * 2.0 ** min(self._failures, 10), _ZYGOTE_PAUSE_LIMIT_S) if has_failed else 0.0
        self._failures = self._failures + 1 if has_failed else 0
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
        log.warning("zygote (process %d) ended: %s, the next starts in %g s", process.pid, how, pause_s)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._restart_now)

    def _restart_now(self) -> None:
        self._restarting = asyncio.ensure_future(self._restart())

    async def _restart(self) -> None:
        with contextlib.suppress(Unavailable, OSError):  # the next request tries again, and says why not
            await self.start()

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        """Collect one that is dying: its socket has ended, so it has no work left."""
        _end(process, 1.0)
        if self._process is process:
            self._process = None


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Wait for a process that has been told to end; one that does not (SIGSTOP) is killed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=patience_s)
    if process.poll() is None:
        process.kill()
        process.wait()
