"""An engine without a kernel: containers are threads that talk over the descriptor they were handed.

What a container runs is its command: `echo WORD…`, `cat`, `exit N`, `sleep` (until killed), `head N`
(reads N bytes).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from corten.docker.engine_api import AttachOptions, ClientStream, Filters, Json, LogOptions
from corten.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, NotModified
from corten.spec.docker import ContainerCreateRequest, ContainerUpdateRequest, ExecConfig, PortsRequest
from unit.docker.fake_images import IMAGE, IMAGE_ID, FakeImages
from unit.docker.fake_networks import FakeNetworks
from unit.docker.fake_volumes import FakeVolumes


def frame(stream: int, data: bytes) -> bytes:
    """Docker's 8-byte header and the data."""
    return struct.pack(">BxxxI", stream, len(data)) + data


class Program:
    """A command that runs in a thread, with a client's socket or none."""

    def __init__(self, command: Sequence[str], tty: bool, done: Any) -> None:
        self.command, self.tty, self.done = command, tty, done
        self.stopped = threading.Event()
        self.log = bytearray()

        self.thread = threading.Thread()

    def start(self, stream_fd: int, initial: bytes) -> None:
        self.thread = threading.Thread(target=self._run, args=(stream_fd, initial), daemon=True)
        self.thread.start()

    def _run(self, fd: int, initial: bytes) -> None:
        if fd >= 0:
            os.set_blocking(fd, True)
        status = 0
        with contextlib.suppress(OSError):
            status = self._execute(fd, initial)
        self.done(status)  # the exit is known before anybody sees the end of the stream
        if fd >= 0:
            os.close(fd)

    def _execute(self, fd: int, initial: bytes) -> int:
        match self.command:
            case ["echo", *words]:
                self._write(fd, " ".join(words).encode() + b"\n")
            case ["cat"]:
                while initial or (fd >= 0 and (initial := os.read(fd, 65536))):
                    self._write(fd, initial)
                    initial = b""
            case ["head", count]:
                data = initial
                while len(data) < int(count) and (more := os.read(fd, 65536)):
                    data += more
                self._write(fd, data[: int(count)])
            case ["exit", status]:
                return int(status)
            case ["sleep"]:
                self.stopped.wait(60)
                return 137
        return 0

    def _write(self, fd: int, data: bytes) -> None:
        self.log += data
        if fd >= 0:
            view = memoryview(data if self.tty else frame(1, data))
            while view:
                view = view[os.write(fd, view) :]


@dataclass
class Box:
    """A container."""

    id: str
    name: str
    request: ContainerCreateRequest
    running: bool = False
    status: int = 0
    program: Program | None = None
    stream: ClientStream | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: bool = False


@dataclass
class Exec:
    """An exec session."""

    id: str
    box: Box
    request: ExecConfig
    status: int | None = None


class WaiterOf:
    def __init__(self, engine: FakeEngine, box: Box) -> None:
        self.engine, self.box = engine, box

    async def result(self) -> Json:
        self.engine.waiting += 1
        try:
            await self.box.exited.wait()
        finally:
            self.engine.waiting -= 1
        return {"StatusCode": self.box.status}


class LogOf:
    def __init__(self, engine: FakeEngine, ref: str, options: LogOptions) -> None:
        self.engine, self.ref, self.options = engine, ref, options
        self.tty = False

    async def open(self) -> None:
        self.tty = self.engine.find(self.ref).request.config.tty

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.engine.following += 1
        try:
            async for data in self._pieces():
                yield data if self.tty else frame(1, data)
        finally:
            self.engine.following -= 1

    async def _pieces(self) -> AsyncIterator[bytes]:
        box = self.engine.find(self.ref)
        read = 0
        while True:
            was_running = box.running or box.program is None
            data = bytes(box.program.log[read:]) if box.program else b""
            read += len(data)
            if data:
                yield data
            if not self.options.follow or not was_running:
                return
            if self.engine.flood:
                yield self.engine.flood
            await asyncio.sleep(0.005)


class FakeEngine(FakeImages, FakeVolumes, FakeNetworks):
    """Implements `corten.docker.engine_api.Engine`."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes: dict[str, Box] = {}
        self.execs: dict[str, Exec] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.listeners: list[asyncio.Queue[Json]] = []
        self.waiting = 0
        self.following = 0
        self.loaded = 0
        self.flood = b""
        self.programs: list[Program] = []

    def is_quiet(self) -> bool:
        """Whether all programs have ended."""
        return not any(program.thread.is_alive() for program in self.programs)

    def find(self, ref: str) -> Box:
        name = ref.removeprefix("/")
        for box in self.boxes.values():
            if box.name == name or (name and box.id.startswith(name)):
                return box
        raise NotFound(f"No such container: {ref}")

    def _emit(self, action: str, box: Box) -> None:
        event = {"Type": "container", "Action": action, "Actor": {"ID": box.id, "Attributes": {"name": box.name}}}
        for queue in self.listeners:
            queue.put_nowait(event)

    # system

    async def version(self) -> Json:
        return {"Version": "0.1", "ApiVersion": "1.51", "MinAPIVersion": "1.40", "Os": "linux", "Arch": "amd64"}

    async def info(self) -> Json:
        return {
            "ID": "x", "Name": "fake", "CgroupVersion": "1", "DiscoveredDevices": [], "Runtimes": {"r": {"status": {}}},
            "RuncCommit": {"ID": "abc"}, "FirewallBackend": {"Driver": "nftables"},
        }  # fmt: skip

    async def events(self, filters: Filters, since: str, until: str) -> AsyncIterator[Json]:
        if since == "bad":
            raise InvalidArgument("invalid value for since")
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)

    # containers

    async def container_create(self, request: ContainerCreateRequest, name: str, platform: str) -> Json:
        if request.config.image not in ("busybox", IMAGE, IMAGE_ID):
            raise NotFound(f"No such image: {request.config.image}:latest")
        if any(box.name == name for box in self.boxes.values()):
            raise AlreadyExists(f'Conflict. The container name "/{name}" is already in use')
        self.calls.append(("create", request, name, platform))
        key = hashlib.sha256(os.urandom(8)).hexdigest()
        box = Box(key, name or f"box_{key[:6]}", request)
        self.boxes[key] = box
        self._emit("create", box)
        return {"Id": key, "Warnings": []}

    async def container_explain(self, request: ContainerCreateRequest, name: str) -> Json:
        return {"effective": [{"field": "Image", "value": request.config.image, "origin": "request"}], "plan": ["x"]}

    async def container_trace(self, ref: str) -> Json:
        return {"steps": [], "phases": [], "id": self.find(ref).id}

    async def container_ports(self, ref: str, request: PortsRequest) -> Json:
        self.calls.append(("ports", self.find(ref).id, request))
        return {"Ports": {}}

    async def container_why(self, ref: str) -> Json:
        return {"Id": self.find(ref).id, "Verdict": None}

    async def container_start(self, ref: str, detach_keys: str = "") -> None:
        box = self.find(ref)
        if box.running:
            raise NotModified(f"container {ref} is already running")
        loop = asyncio.get_running_loop()
        command = [*(box.request.config.entrypoint or []), *(box.request.config.cmd or [])]
        box.program = Program(
            command, box.request.config.tty, lambda status: loop.call_soon_threadsafe(self._exit, box, status)
        )
        box.running = True
        box.exited.clear()
        fd, initial = -1, b""
        if box.stream is not None and not box.hung_up:
            initial = box.stream.initial
            fd = box.stream.detach_fd()
        box.stream = None
        self._emit("start", box)
        self.programs.append(box.program)
        box.program.start(fd, initial)

    def _exit(self, box: Box, status: int) -> None:
        box.running, box.status = False, status
        box.exited.set()
        self._emit("die", box)
        if box.request.host_config.auto_remove:
            self.boxes.pop(box.id, None)

    async def container_stop(self, ref: str, signal: str = "", timeout_s: int | None = None) -> None:
        self.calls.append(("stop", ref, signal, timeout_s))
        await self.container_kill(ref)

    async def container_restart(self, ref: str, signal: str = "", timeout_s: int | None = None) -> None:
        self.calls.append(("restart", ref, signal, timeout_s))

    async def container_kill(self, ref: str, signal: str = "SIGKILL") -> None:
        box = self.find(ref)
        self.calls.append(("kill", ref, signal))
        if not box.running or box.program is None:
            raise Conflict(f"container {box.id} is not running")
        box.program.stopped.set()

    async def container_pause(self, ref: str) -> None:
        self.find(ref)

    async def container_unpause(self, ref: str) -> None:
        self.find(ref)

    async def container_wait(self, ref: str, condition: str) -> WaiterOf:
        return WaiterOf(self, self.find(ref))

    async def attach_check(self, ref: str, options: AttachOptions) -> bool:
        box = self.find(ref)
        self.calls.append(("attach", options))
        return box.request.config.tty

    async def container_attach(self, ref: str, options: AttachOptions, stream: ClientStream) -> None:
        box = self.find(ref)
        stream.write_head()
        box.stream = stream

        def gone() -> None:
            box.hung_up = True
            stream.close()

        stream.on_hangup(gone)

    async def container_resize(self, ref: str, rows: int, cols: int) -> None:
        self.calls.append(("resize", self.find(ref).name, rows, cols))

    def container_logs(self, ref: str, options: LogOptions) -> LogOf:
        self.calls.append(("logs", options))
        return LogOf(self, ref, options)

    async def container_inspect(self, ref: str, size: bool = False) -> Json:
        box = self.find(ref)
        return {
            "Id": box.id, "Name": "/" + box.name, "Image": IMAGE_ID,
            "State": {"Status": "running" if box.running else "exited", "Running": box.running, "ExitCode": box.status},
            "Config": {"Tty": box.request.config.tty, "Image": "busybox"},
            "HostConfig": {"LogConfig": {"Type": "json-file"}, "Annotations": {"a": "b"}, "NetworkMode": "net"},
            "NetworkSettings": {"Networks": {"net": {"Aliases": ["one"], "DNSNames": ["two"]}}},
            "ImageManifestDescriptor": {},
        }  # fmt: skip

    async def log_usage(self) -> dict[str, int]:
        return {box.id: 7 for box in self.boxes.values()}

    async def container_list(self, all: bool, limit: int, size: bool, filters: Filters) -> list[Json]:
        self.calls.append(("list", all, limit, size, dict(filters)))
        return [
            {"Id": box.id, "Names": ["/" + box.name], "Image": "busybox", "ImageID": IMAGE_ID, "Command": "x",
             "Created": 0, "State": "running", "Status": "Up", "Ports": [], "Labels": {},
             "HostConfig": {"Annotations": {}}}
            for box in self.boxes.values() if all or box.running
        ]  # fmt: skip

    async def container_top(self, ref: str, ps_args: str) -> Json:
        self.find(ref)
        return {"Titles": ["PID"], "Processes": [["1"]]}

    async def container_rename(self, ref: str, name: str) -> None:
        self.find(ref).name = name

    async def container_remove(self, ref: str, force: bool, volumes: bool, link: bool) -> None:
        self.calls.append(("remove", ref, force, volumes, link))
        self.boxes.pop(self.find(ref).id)

    async def container_prune(self, filters: Filters, dry_run: bool = False) -> Json:
        return {"ContainersDeleted": None, "SpaceReclaimed": 0}

    async def container_update(self, ref: str, request: ContainerUpdateRequest) -> Json:
        self.calls.append(("update", request))
        return {"Warnings": None}

    async def container_stats(self, ref: str, one_shot: bool) -> Json:
        self.find(ref)
        self.calls.append(("stats", one_shot))
        count = len(self.calls)
        return {"read": f"t{count}", "cpu_stats": {"n": count}, "precpu_stats": {}}

    async def container_commit(self, ref: str, repo: str, tag: str, **given: Any) -> Json:
        self.calls.append(("commit", self.find(ref).name, repo, tag, given))
        return {"Id": IMAGE_ID}

    async def container_changes(self, ref: str) -> list[Json] | None:
        return [{"Path": f"/{self.find(ref).name}", "Kind": 1}]

    async def container_export(self, ref: str) -> AsyncIterator[bytes]:
        yield self.find(ref).name.encode()

    async def container_path_stat(self, ref: str, path: str) -> Json:
        if path == "/nope":
            raise NotFound(f"Could not find the file {path} in container {ref}")
        return {"name": path, "size": len(self.find(ref).name), "mode": 420, "mtime": "", "linkTarget": ""}

    async def container_archive(self, ref: str, path: str) -> AsyncIterator[bytes]:
        yield msgspec.json.encode(await self.container_path_stat(ref, path))
        yield b"archive of "
        yield path.encode()

    async def container_extract(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keeps_kinds: bool, copies_owner: bool
    ) -> None:
        await self.container_path_stat(ref, path)
        data = b"".join([piece async for piece in body])
        self.calls.append(("extract", ref, path, data, keeps_kinds, copies_owner))

    # exec

    async def exec_create(self, ref: str, request: ExecConfig) -> Json:
        box = self.find(ref)
        if not box.running:
            raise Conflict(f"container {box.id} is not running")
        key = hashlib.sha256(os.urandom(8)).hexdigest()
        self.execs[key] = Exec(key, box, request)
        return {"Id": key}

    def _exec(self, exec_id: str) -> Exec:
        if exec_id not in self.execs:
            raise NotFound(f"No such exec instance: {exec_id}")
        return self.execs[exec_id]

    async def exec_check(self, exec_id: str, tty: bool) -> bool:
        return self._exec(exec_id).request.tty

    async def exec_start(
        self, exec_id: str, detach: bool, console_size: tuple[int, int] | None, stream: ClientStream | None
    ) -> None:
        session = self._exec(exec_id)
        command = session.request.cmd or []
        self.calls.append(("exec_start", detach, console_size))
        if command[:1] == ["nothing"]:
            session.status = 127
            raise InvalidArgument('exec: "nothing": executable file not found in $PATH')
        fd, initial = -1, b""
        if stream is not None:
            stream.write_head()
            initial = stream.initial
            fd = stream.detach_fd()
        program = Program(command, session.request.tty, lambda status: setattr(session, "status", status))
        self.programs.append(program)
        program.start(fd, initial)

    async def exec_resize(self, exec_id: str, rows: int, cols: int) -> None:
        self._exec(exec_id)

    async def exec_inspect(self, exec_id: str) -> Json:
        session = self._exec(exec_id)
        return {"ID": exec_id, "Running": session.status is None, "ExitCode": session.status, "Pid": 1}
