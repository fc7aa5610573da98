"""Work that would leave a shim large, done in a forked child.

Compiling a plan touches thousands of objects, and with them pages that shims share (rehearsal.py).  So the built-in
runtime runs in a child that is forked for one call and ends with it.  The launcher must be the shim's own child, for
the container's init to be one (CLONE_PARENT): the child hands plan and descriptors over and the shim spawns.

    helper → shim   {"spawn": [number, …], "plan": number} + descriptors, which become those numbers in the launcher
    shim → helper   {"launcher": pid}
    helper → shim   {"ok": {…}} + descriptors, or {"error": {"kind", "text"}}; the end

The shim waits in its loop, so that a slow hook stops no stream.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Mapping

from corten.errors import CortenError, Internal, Unavailable
from corten.launch import spawn
from corten.launch.encode import encode
from corten.launch.ops import Plan
from corten.shim import protocol
from corten.shim.backend import Steps
from corten.shim.loop import Readable
from corten.shim.protocol import Message
from corten.sys import files

FIRST_NUMBER = 400  # of descriptors in the launcher: above any that a shim has open
Work = Callable[["Channel"], tuple[Message, list[int]]]


class Channel:
    """The helper's end."""

    __slots__ = ("_socket",)

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def spawn(self, numbers: list[int], plan_number: int, fds: list[int]) -> int:
        """Ask the shim to start the launcher; its pid."""
        protocol.send(self._socket, protocol.encode({"spawn": numbers, "plan": plan_number}), fds)
        body, _ = protocol.receive(self._socket)
        if not body:
            raise Unavailable("the shim is gone")
        answer = protocol.decode(body)
        if "error" in answer:
            protocol.raise_failure(answer["error"])
        return int(answer["launcher"])

    def report(self, message: Message, fds: list[int]) -> None:
        """The result."""
        protocol.send(self._socket, protocol.encode(message), fds)


class RemoteLaunch(spawn.Launch):
    """A launch whose launcher is the shim's child: the shim reaps it."""

    __slots__ = ()

    def reap_launcher(self) -> int:
        return 0


class RemoteLauncher(spawn.Launcher):
    """The launcher in a helper: the shim spawns it."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def spawn(
        self,
        plan: Plan,
        fds: Mapping[str, int],
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        transform: Callable[[Plan], Plan] | None = None,
    ) -> spawn.Launch:
        """As `Launcher.spawn`."""
        if transform is not None:
            plan = transform(plan)
        read_fd, write_fd = os.pipe()
        names = [name for name in plan.inputs if name in fds]
        numbers = {name: FIRST_NUMBER + 2 + place for place, name in enumerate(names)}
        plan_fd = spawn.sealed_memfd("corten-plan", encode(plan, numbers, FIRST_NUMBER))
        try:
            sources = [*stdio, write_fd, plan_fd, *(fds[name] for name in names)]
            targets = [0, 1, 2, FIRST_NUMBER, FIRST_NUMBER + 1, *numbers.values()]
            pid = self._channel.spawn(targets, FIRST_NUMBER + 1, sources)
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
            os.close(plan_fd)
        return RemoteLaunch(plan, pid, read_fd)


def run(work: Work, launcher_fd: int) -> Steps[tuple[Message, list[int]]]:
    """Run `work` in a helper: its message and descriptors.  Raises what it raised, or Internal when it died."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
        if pid == 0:
            _help(work, Channel(theirs))
        theirs.close()
        while True:
            yield Readable(ours.fileno())
            body, fds = protocol.receive(ours)
            if not body:
                raise Internal("the runtime's helper died")
            message = protocol.decode(body)
            if "spawn" not in message:
                break
            protocol.send(ours, protocol.encode(_spawn(message, fds, launcher_fd)))
    finally:
        ours.close()
        theirs.close()
    if "error" in message:
        protocol.close_all(fds)
        protocol.raise_failure(message["error"])
    return message["ok"], fds


def _spawn(message: Message, fds: list[int], launcher_fd: int) -> Message:
    """In the shim: start the launcher with the helper's descriptors."""
    try:
        pid = os.posix_spawn(
            f"/proc/self/fd/{launcher_fd}",
            ["corten-launch", str(message["plan"])],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(fds, message["spawn"], strict=True)],
            setsigmask=(),
        )
    except OSError as error:
        return {"error": {"kind": "internal", "text": f"launcher: {files.why(error)}"}}
    finally:
        protocol.close_all(fds)
    return {"launcher": pid}


def _help(work: Work, channel: Channel) -> None:
    """In the child; does not return."""
    try:
        message, fds = work(channel)
        channel.report({"ok": message}, fds)
    except CortenError as error:
        channel.report({"error": protocol.failure(error)}, [])
    except OSError as error:
        traceback.print_exception(error)
        channel.report({"error": {"kind": "internal", "text": files.why(error)}}, [])
    except Exception:  # the child's outermost loop
        traceback.print_exc()
    finally:
        os._exit(0)
