"""A container's life played through in the zygote, before the first shim is forked.

A shim shares every page with the zygote until it writes to it, and in CPython reading writes: reference counts,
specialized bytecode, method caches, the key tables of instances.  What has been played here has settled: its caches are
filled and its code is specialized, and the pages are shared by all shims.  Measured effect: docs/shim.md, "Memory".

The play uses the shim's own server, task, streams, log and records, in a tmpfs that no path leads to and that ends with
its descriptor.  Nothing is launched; the process is a forked child that writes a line and exits.  The pure half of the
built-in runtime (configuration to plan) is run over a configuration like dockerd's.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from corten.launch.encode import encode
from corten.runtime import cgroup_stats, container, executing, fast, hooks  # noqa: F401  # loaded here, used in shims
from corten.runtime.cgroups import Cgroup
from corten.runtime.prepare import Host, prepare
from corten.shim import protocol, shim
from corten.shim.backend import Launched, Phases, Steps, Streams
from corten.sys import files, mount, pidfd

ROUNDS = 12  # CPython 3.11 specializes a function after 8 calls
_GUARDED = ["nosuid", "noexec", "nodev"]


def play(host: Host) -> None:
    """All rounds; some 30 ms."""
    context = mount.fsopen("tmpfs")
    try:
        mount.fsconfig_create(context)
        stage_fd = mount.fsmount(context)
    finally:
        os.close(context)
    stage = f"/proc/self/fd/{stage_fd}"
    settled = Host(host.facts, f"{stage}/seccomp")
    try:
        for number in range(ROUNDS):
            _play_life(stage, host)
            _play_plan(stage, settled, has_terminal=number % 4 == 0)
    finally:
        os.close(stage_fd)


class _Actor:
    """A `Backend` whose process is a forked child."""

    rootfs_fd = -1

    def __init__(self) -> None:
        self._cue, self._prompter = os.pipe()

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        with phases.measure("rehearsal"):
            pid = os.fork()
        if pid == 0:
            os.read(self._cue, 1)
            os.write(streams.stdio[1], b"a line\n")
            os._exit(0)
        yield from ()
        return Launched(pid, pidfd.open_process(pid))

    def start(self) -> Steps[None]:
        os.write(self._prompter, b"x")
        yield from ()

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        os.write(self._prompter, b"x")
        return (yield from self.create(streams, Phases()))

    def signal_all(self, signum: int) -> Steps[None]:
        yield from ()

    def pause(self) -> Steps[None]:
        yield from ()

    def resume(self) -> Steps[None]:
        yield from ()

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        yield from ()

    def delete(self, *, force: bool) -> Steps[None]:
        os.close(self._cue)
        os.close(self._prompter)
        yield from ()

    def cgroup(self) -> Cgroup | None:
        return None

    def write_trace(self, path: str, phases: Phases) -> None:
        files.replace(path, fast.dump_bytes({"phases": phases.to_obj(), "steps": []}))


def _play_life(stage: str, host: Host) -> None:
    """A container with a log and an attached client, from `create` to `shutdown`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    player = shim.Shim(stage, "rehearsal", "0" * 64, host, make_backend=_Actor)
    with ours:
        player.serve(theirs)
        for op, fields, has_client in _SCRIPT:
            log = {"log": {"path": f"{stage}/log", "attrs": {"a": "b"}}} if op == "create" else {}
            _play_request(player, ours, op, fields | log, has_client)
        player.run()
    os.unlink(f"{stage}/log")


_ATTACH = {
    "stdin": True,
    "stdout": True,
    "stderr": True,
    "multiplexed": True,
    "stdin_once": True,
    "initial_stdin": "eA==",
}
_SCRIPT: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("hello", {"version": protocol.VERSION}, False),
    ("ping", {}, False),
    (
        "create",
        {"stdin_open": True, "held": ["x"], "default_pids_limit": 5, "runtime": {"path": ""}, "rootfs": []},
        True,
    ),
    ("attach", _ATTACH, True),
    ("no such op", {}, False),
    ("start", {}, False),
    ("exec_start", {"exec_id": "e", "process": {"args": ["x"]}, "attach": _ATTACH}, True),
    ("resize", {"rows": 1, "cols": 2}, False),
    ("trace", {}, False),
    ("delete", {"force": True}, False),
    ("shutdown", {}, False),
)


def _play_request(player: shim.Shim, peer: socket.socket, op: str, fields: dict[str, Any], has_client: bool) -> None:
    body = protocol.encode({"op": op, "seq": 1, **fields})
    if has_client:
        client, handed = socket.socketpair()
        with client, handed:
            protocol.send(peer, body, [handed.fileno()])
            handed.close()
            client.sendall(b"words")
            _play_to_answer(player, peer)
    else:
        protocol.send(peer, body)
        _play_to_answer(player, peer)


def _play_to_answer(player: shim.Shim, peer: socket.socket) -> None:
    """Turn the loop until a message with `seq` comes, or the end."""
    while True:
        try:
            body, fds = protocol.receive(peer)
        except BlockingIOError:
            player.turn()
            continue
        protocol.close_all(fds)
        if not body or "seq" in protocol.decode(body):
            return


def _play_plan(stage: str, host: Host, *, has_terminal: bool) -> None:
    """Configuration to encoded plan, as `create` does it."""
    config = _config()
    config["process"]["terminal"] = has_terminal
    files.replace(f"{stage}/config.json", fast.dump_bytes(config))
    options = container.CreateOptions(
        "0" * 64, f"{stage}/runtime", stage, rootfs_fd=0, parent="shim", console_fd=0 if has_terminal else -1
    )
    plan = prepare(options, host).plan
    encode(plan, dict.fromkeys(plan.inputs, 3), 4)
    for op in plan.ops:
        op.describe()


def _config() -> dict[str, Any]:
    """A configuration of the shape that the engine writes."""
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID"]
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
            "args": ["sh", "-c", "true"],
            "env": ["PATH=/usr/bin:/bin", "HOSTNAME=rehearsal"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
            "oomScoreAdj": 0,
        },
        "root": {"path": "rootfs"},
        "hostname": "rehearsal",
        "mounts": _mounts(),
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "cgroupsPath": "/rehearsal",
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "access": "rwm"},
                ],
                "memory": {"limit": 1 << 26, "swap": 1 << 27},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                "pids": {"limit": 100},
            },
            "namespaces": [{"type": name} for name in ("mount", "uts", "ipc", "pid", "cgroup")]
            + [{"type": "network", "path": "/proc/self/ns/net"}],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": 1,
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["read", "write", "execve", "exit_group"], "action": "SCMP_ACT_ALLOW"}],
            },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    }


def _mounts() -> list[dict[str, Any]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _GUARDED},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_GUARDED, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_GUARDED, "ro"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": _GUARDED},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*_GUARDED, "mode=1777"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "rprivate"]},
    ]
