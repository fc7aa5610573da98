"""Attached clients: their sockets are handed to the shim, before or after the start.

A client that attaches to a created container gets its head at once and waits here; nothing is read from it.
When the container starts, the sockets go to the shim between create and start, so that no output is missed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from corten.core.shims import Attach, ShimClient
from corten.engine.container import Container
from corten.engine.logread import Formatter, Query, Reader
from corten.engine.record import Status
from corten.errors import Conflict, CortenError, InvalidArgument


class ClientStream(Protocol):
    """A hijacked connection (docker.engine_api.ClientStream)."""

    @property
    def initial(self) -> bytes: ...
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


class Held:
    """A client that waits for the start."""

    __slots__ = ("attach", "stream")

    def __init__(self, stream: ClientStream, attach: Attach) -> None:
        self.stream = stream
        self.attach = attach


class Streams:
    """Takes clients and hands them over."""

    async def check(self, container: Container) -> bool:
        """Whether it has a tty.  Raises Conflict when nobody can attach."""
        state = container.record.state
        if state.status is Status.PAUSED:
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        if state.status is Status.RESTARTING:
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        return container.record.effective.config.tty

    async def attach(self, container: Container, options: AttachOptions, stream: ClientStream, log_path: str) -> None:
        """Hand the client to the shim now, or hold it until the start.  With `logs`, what was so far comes first."""
        attach = self._request(container, options, stream)
        stream.write_head()
        if options.logs:
            stream = await _replayed(container, options, stream, log_path)
        if not options.stream:
            stream.close()
            return
        shim = container.task.shim if container.is_running and container.task is not None else None
        if shim is not None:
            await hand_over(shim, stream, attach)
            return
        held = Held(stream, attach)
        container.held_streams.append(held)
        stream.on_hangup(lambda: _forget(container, held))

    def _request(self, container: Container, options: AttachOptions, stream: ClientStream) -> Attach:
        config = container.record.effective.config
        return Attach(
            stdin=options.stdin and config.open_stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            multiplexed=not config.tty,
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


class _Replayed:
    """A client that already got the log: its socket is ours."""

    def __init__(self, fd: int, initial: bytes) -> None:
        self.initial = initial
        self._fd = fd

    def write_head(self) -> None:
        """It was written."""

    def detach_fd(self) -> int:
        """Hand it on."""
        fd, self._fd = self._fd, -1
        return fd

    def on_hangup(self, callback: Callable[[], None]) -> None:
        """A client that goes while it waits is noticed at the start."""

    def close(self) -> None:
        """End the connection."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def _replayed(container: Container, options: AttachOptions, stream: ClientStream, log_path: str) -> ClientStream:
    """The client after the log so far was written to it."""
    query = Query(stdout=options.stdout, stderr=options.stderr)
    formatter = Formatter(query, raw=container.record.effective.config.tty)
    fd = stream.detach_fd()
    replayed = _Replayed(fd, stream.initial)
    await asyncio.to_thread(_write_log, fd, log_path, formatter)
    return replayed


def _write_log(fd: int, path: str, formatter: Formatter) -> None:
    os.set_blocking(fd, True)
    reader = Reader(path)
    try:
        while block := reader.read():
            data = memoryview(formatter.format(block))
            while data:
                data = data[os.write(fd, data) :]
    except (BrokenPipeError, ConnectionResetError):
        return  # the client has gone
    finally:
        reader.close()


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
