"""Attached clients: their sockets are handed to the shim, before or after the start.

A client that attaches to a created container gets its head at once and waits here; nothing is read from it.
When the container starts, the sockets go to the shim between create and start, so that no output is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from corten.core.shims import Attach, ShimClient
from corten.engine.container import Container
from corten.engine.logconfig import LogPlace
from corten.engine.logfiles import Reader
from corten.engine.logread import Formatter, Query
from corten.engine.record import Status
from corten.errors import Conflict, CortenError, InvalidArgument

_REPLAYS: Final = 4  # logs that are written at once; a client that does not read holds up no other work
_READ_TIMEOUT_S: Final = 30  # that a client may take nothing of a log


class ClientStream(Protocol):
    """A hijacked connection (docker.engine_api.ClientStream)."""

    @property
    def initial(self) -> bytes: ...
    def fileno(self) -> int: ...
    def write_head(self) -> None: ...
    def detach_fd(self) -> int: ...
    def on_hangup(self, callback: Callable[[], None]) -> None: ...
    def close(self) -> None: ...


class AttachOptions(Protocol):
    """docker.engine_api.AttachOptions."""

    @property
    def stdin(self) -> bool: ...
    @property
    def stdout(self) -> bool: ...
    @property
    def stderr(self) -> bool: ...
    @property
    def stream(self) -> bool: ...
    @property
    def logs(self) -> bool: ...
    @property
    def detach_keys(self) -> str: ...
    @property
    def is_raw(self) -> bool: ...


class Held:
    """A client that waits for the start."""

    __slots__ = ("attach", "stream")

    def __init__(self, stream: ClientStream, attach: Attach) -> None:
        self.stream = stream
        self.attach = attach


class Streams:
    """Takes clients and hands them over."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_REPLAYS, thread_name_prefix="attach-logs")
        self._ended = threading.Event()

    def close(self) -> None:
        """Let go of clients that are still being written a log."""
        self._ended.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def check(self, container: Container) -> bool:
        """Whether it has a tty.  Raises Conflict when nobody can attach."""
        state = container.record.state
        if state.status is Status.PAUSED:
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        if state.status is Status.RESTARTING:
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        return container.record.effective.config.tty

    async def attach(
        self, container: Container, options: AttachOptions, stream: ClientStream, log: LogPlace | None
    ) -> None:
        """Hand the client to the shim now, or hold it until the start.  With `logs`, what was so far comes first."""
        attach = self._request(container, options, stream)
        stream.write_head()
        if options.logs and log is not None and not await self._replay(container, options, stream, log):
            stream.close()
            return
        if not options.stream:
            stream.close()
            return
        shim = container.task.shim if container.is_running and container.task is not None else None
        if shim is not None:
            await hand_over(shim, stream, attach)
            return
        held = Held(stream, attach)
        container.held_streams.append(held)
        try:
            stream.on_hangup(lambda: _forget(container, held))
        except OSError:
            _forget(container, held)

    async def _replay(self, container: Container, options: AttachOptions, stream: ClientStream, log: LogPlace) -> bool:
        """Write the log so far through a descriptor of its own; the stream stays the door's.  False: it is to go."""
        query = Query(stdout=options.stdout, stderr=options.stderr)
        formatter = Formatter(query, raw=container.record.effective.config.tty or options.is_raw, format=log.format)
        client = socket.socket(fileno=os.dup(stream.fileno()))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _write_log, client, log, formatter, self._ended)

    def _request(self, container: Container, options: AttachOptions, stream: ClientStream) -> Attach:
        config = container.record.effective.config
        return Attach(
            stdin=options.stdin and config.open_stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            multiplexed=not config.tty and not options.is_raw,
            stdin_once=config.stdin_once,
            detach_keys=options.detach_keys,
            initial_stdin=stream.initial,
        )

    async def hand_over(self, container: Container, shim: ShimClient) -> None:
        """Give every held client to the shim; one that has gone meanwhile is forgotten."""
        held, container.held_streams = container.held_streams, []
        for one in held:
            await hand_over(shim, one.stream, one.attach)

    def drop(self, container: Container) -> None:
        """Close the clients of a container that did not start, or was removed."""
        held, container.held_streams = container.held_streams, []
        for one in held:
            one.stream.close()


def _write_log(client: socket.socket, log: LogPlace, formatter: Formatter, ended: threading.Event) -> bool:
    """Write all there is to a socket that does not block, which is closed; blocks.  False when the client is to go."""
    reader = Reader(log.path, log.format, follows=False)
    try:
        while block := reader.read():
            data = memoryview(formatter.format(block))
            while data:
                if not _await_room(client, ended):
                    return False
                with contextlib.suppress(BlockingIOError):
                    data = data[client.send(data) :]
    except OSError:  # the client has gone, or the log cannot be read
        return False
    finally:
        reader.close()
        client.close()
    return True


def _await_room(client: socket.socket, ended: threading.Event) -> bool:
    """Whether the client takes more; False when it took nothing for too long, or the engine ends."""
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    for _ in range(_READ_TIMEOUT_S):
        if ended.is_set():
            return False
        if poll.poll(1000):
            return True
    return False


def _forget(container: Container, held: Held) -> None:
    if held in container.held_streams:
        container.held_streams.remove(held)
        held.stream.close()


async def hand_over(shim: ShimClient, stream: ClientStream, attach: Attach, exec_id: str = "") -> None:
    """The socket leaves this process.  A client that is gone already is no error."""
    try:
        fd = stream.detach_fd()
    except OSError:
        return
    try:
        await shim.attach(fd, attach, exec_id)
    except CortenError:
        if exec_id:
            raise
    finally:
        os.close(fd)


def check_size(rows: int, cols: int) -> None:
    """Raises InvalidArgument for a size that no terminal has."""
    if not (0 <= rows < 1 << 16 and 0 <= cols < 1 << 16):
        raise InvalidArgument(f"invalid terminal size: {rows} rows, {cols} columns")
