"""A container's life played through in the zygote, before the first shim is forked.

A shim shares every page with the zygote until it writes to it, and in CPython reading writes: reference counts,
specialized bytecode, method caches, the key tables of instances.  What has been played here has settled: its caches are
filled and its code is specialized, and the pages are shared by all shims.  Measured effect: docs/shim.md, "Memory".

The play uses the shim's own server, task, backend, streams, log and records, in a tmpfs that no path leads to and that
ends with its descriptor; the helper launches for it as for every shim, a process that writes a line and sleeps
(corten.shim.stage).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from contextlib import ExitStack
from typing import Any

from corten.launch.facts import HostFacts
from corten.runtime import cgroup_stats, fast  # noqa: F401  # loaded here, used in shims
from corten.shim import protocol, shim
from corten.shim.loop import Loop
from corten.shim.protocol import Message
from corten.shim.relay import Relays
from corten.sys import mount

ROUNDS = 12  # CPython 3.11 specializes a function after 8 calls


class Rehearsal:
    """A stage, shared with the helper until the end of the play."""

    def __init__(self, facts: HostFacts) -> None:
        self._facts = facts
        self._stage_fd = mount.detached_tmpfs()
        self.directory = f"/proc/self/fd/{self._stage_fd}"
        self.listener = protocol.bind_listener(self.directory, protocol.HELPER_SOCKET)
        self.over_fd, self._curtain = os.pipe()
        self._make_cgroup()

    def play(self) -> None:
        """All rounds; some 100 ms.  The play is over when the helper dies."""
        self.listener.close()  # the helper's alone: its death is the end of every session
        for _ in range(ROUNDS):
            _play_relays()
            if not _play_life(self.directory, self._facts):
                return

    def leave(self) -> None:
        """This process plays no more; when all have left, the play is over."""
        os.close(self._curtain)

    def close(self) -> None:
        """The stage is taken down with its last holder."""
        self.listener.close()
        os.close(self.over_fd)
        os.close(self._stage_fd)

    def _make_cgroup(self) -> None:
        """What the shim reads of a v1 cgroup, as plain files."""
        os.mkdir(f"{self.directory}/cgroup")
        for name in ("memory.oom_control", "cgroup.event_control", "cgroup.procs", "pids.events"):
            os.close(os.open(f"{self.directory}/cgroup/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _play_life(stage: str, facts: HostFacts) -> bool:
    """A container with a log and an attached client, from `create` to `shutdown`; False when it did not get there."""
    goes_on = True
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    player = shim.Shim(stage, "rehearsal", "0" * 64, facts, stage)
    with ours:
        player.serve(theirs)
        for op, fields, has_client in _SCRIPT:
            log = {"log": {"path": f"{stage}/log", "attrs": {"a": "b"}, "opts": _ROTATION}} if op == "create" else {}
            if goes_on or op == "shutdown":
                answer = _play_request(player, ours, op, fields | log, has_client)
                goes_on = goes_on and ("error" not in answer or op == _UNKNOWN)
            if goes_on and op == "start":
                _play_probe(player)
        if "error" in answer:  # the helper died with a container on its hands: this player never ends
            return False
        player.run()
    os.unlink(f"{stage}/log")
    return goes_on


def _play_relays() -> None:
    """A published port of TCP and one of UDP, on loopback; what a machine has not is left out."""
    loop = Loop()
    relays = Relays(loop)
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        kind = socket.SOCK_STREAM if family == socket.AF_INET else socket.SOCK_DGRAM
        with contextlib.suppress(OSError), ExitStack() as undo:
            held, server, client = (undo.enter_context(socket.socket(family, kind)) for _ in range(3))
            for one in (held, server):
                one.bind((address, 0))
            if family == socket.AF_INET:
                server.listen()
            relays.serve(address, held.fileno(), server.getsockname()[:2])
            undo.callback(relays.close)
            client.connect(held.getsockname())
            client.send(b"x")
            _turn(loop)
            if family == socket.AF_INET:
                server.settimeout(_PROBE_S)
                with server.accept()[0] as inside:
                    inside.send(b"y")
                    _turn(loop)
            client.close()
            _turn(loop)
    _turn(loop)


def _turn(loop: Loop) -> None:
    """Loopback is as fast as the turns."""
    for _ in range(3):
        loop.turn(0)


_UNKNOWN = "no such op"
_ROTATION = {"max-size": 20_000_000, "max-file": 5, "compress": True}
_ATTACH = {
    "stdin": True,
    "stdout": True,
    "stderr": True,
    "multiplexed": True,
    "stdin_once": True,
    "initial_stdin": "eA==",
}
_HOUR_NS = 3600 * 10**9
_HEALTH = {  # one probe, at once
    "process": {"args": ["x"]},
    "interval": _HOUR_NS,
    "timeout": _HOUR_NS,
    "start_period": _HOUR_NS,
    "start_interval": 1,
}
_PROBE_S = 2.0
_SCRIPT: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("hello", {"version": protocol.VERSION}, False),
    ("ping", {}, False),
    (
        "create",
        {
            "held": ["x"],
            "default_pids_limit": 5,
            "runtime": {"path": ""},
            "rootfs": [{"type": "overlay", "source": "overlay", "options": ["a=b"]}],
            "health": _HEALTH,
        },
        True,
    ),
    ("attach", _ATTACH, True),
    (_UNKNOWN, {}, False),
    ("start", {}, False),
    ("exec_start", {"exec_id": "e", "process": {"args": ["x"]}, "attach": _ATTACH}, True),
    ("resize", {"rows": 1, "cols": 2}, False),
    ("trace", {}, False),
    ("delete", {"force": True}, False),
    ("shutdown", {}, False),
)


def _play_probe(player: shim.Shim) -> None:
    """The loop turns until its health check has a result, or nobody could make one."""
    until = time.monotonic() + _PROBE_S
    while not player.was_probed and time.monotonic() < until:
        player.turn()


def _play_request(player: shim.Shim, peer: socket.socket, op: str, fields: dict[str, Any], has_client: bool) -> Message:
    body = protocol.encode({"op": op, "seq": 1, **fields})
    if has_client:
        client, handed = socket.socketpair()
        with client, handed:
            protocol.send(peer, body, [handed.fileno()])
            handed.close()
            client.sendall(b"words")
            return _play_to_answer(player, peer)
    protocol.send(peer, body)
    return _play_to_answer(player, peer)


def _play_to_answer(player: shim.Shim, peer: socket.socket) -> Message:
    """Turn the loop until a message with `seq` comes; {} at the end."""
    while True:
        try:
            body, fds = protocol.receive(peer)
        except BlockingIOError:
            player.turn()
            continue
        protocol.close_all(fds)
        message = protocol.decode(body) if body else {}
        if not body or "seq" in message:
            return message
