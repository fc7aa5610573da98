"""Real shims over busybox containers, driven through `corten.core.shims` as cortend drives them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from corten.core.shims import Attach, CreateRequest, LogRequest, ShimClient, Zygote
from corten.sys import mount
from support import paths, process, runtimes

TENANT = "test"


class Stream:
    """The client's end of an attached connection."""

    def __init__(self) -> None:
        self.socket, self.theirs = socket.socketpair()
        self.socket.setblocking(False)

    async def read(self, size: int = 65536, timeout: float = 60) -> bytes:
        """Up to `size` bytes; b'' at the end."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.sock_recv(self.socket, size), timeout)

    async def read_all(self, timeout: float = 60) -> bytes:
        """Everything up to the end."""
        data = b""
        while piece := await self.read(timeout=timeout):
            data += piece
        return data

    async def read_until(self, text: bytes, timeout: float = 60) -> bytes:
        """Everything up to `text`."""
        data = b""
        while text not in data:
            piece = await self.read(timeout=timeout)
            assert piece, f"ended after {data!r}"
            data += piece
        return data

    async def send(self, data: bytes) -> None:
        """All of `data`."""
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    def end(self) -> None:
        """Half-close."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
        self.theirs.close()


def frames(data: bytes) -> dict[int, bytes]:
    """A multiplexed stream as stream number → bytes."""
    streams: dict[int, bytes] = {1: b"", 2: b""}
    while data:
        size = int.from_bytes(data[4:8], "big")
        streams[data[0]] += data[8 : 8 + size]
        data = data[8 + size :]
    return streams


class Box:
    """One container and its shim."""

    def __init__(self, lab: Lab, id: str, directory: Path) -> None:
        self.lab = lab
        self.id = id
        self.directory = directory
        self.log_path = directory / "container-json.log"
        self.config: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.lost = asyncio.Event()
        self.streams: list[Stream] = []
        self._news = asyncio.Event()
        self.client: ShimClient

    def on_event(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._news.set()

    async def wait_event(self, kind: str, timeout: float = 60) -> dict[str, Any]:
        """The first event of a kind, past or future."""
        deadline = time.monotonic() + timeout
        while True:
            found = next((event for event in self.events if event["event"] == kind), None)
            if found is not None:
                return found
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), deadline - time.monotonic())

    async def attach(self, exec_id: str = "", **options: Any) -> Stream:
        """A new attached client."""
        stream = self.stream()
        await self.client.attach(stream.theirs.fileno(), Attach(**options), exec_id)
        stream.theirs.close()
        return stream

    def stream(self) -> Stream:
        """A connection that the lab closes at the end."""
        self.streams.append(Stream())
        return self.streams[-1]

    async def exec(self, exec_id: str, *args: str, process: Mapping[str, Any] | None = None, **options: Any) -> Stream:
        """An exec with an attached client; `options` are those of Attach, and terminal, stdin_open."""
        spec = {**self.config["process"], "args": list(args), **(process or {})}
        terminal, stdin = options.pop("terminal", False), options.pop("stdin_open", False)
        spec["terminal"] = terminal
        stream = self.stream()
        await self.client.exec_start(
            exec_id,
            spec,
            terminal=terminal,
            stdin_open=stdin,
            attach=Attach(**options),
            stream_fd=stream.theirs.fileno(),
        )
        stream.theirs.close()
        return stream

    def descriptors(self) -> list[str]:
        """What the shim's descriptors lead to; those that it closes meanwhile are left out."""
        folder, found = Path(f"/proc/{self.client.pid}/fd"), []
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found.append(re.sub(r"\d+", "N", os.readlink(folder / name)))
        return sorted(found)

    async def at_rest(self) -> list[str]:
        """`descriptors`, when the shim has done all that it was at: a client sees the end of its stream before."""
        await self.client.ping()
        return self.descriptors()

    async def until_descriptors(self, wanted: list[str]) -> None:
        """Wait until they are what they were; else tells which are more and which are missing."""
        with contextlib.suppress(AssertionError):
            await until(lambda: self.descriptors() == wanted, "descriptors as before")
        assert self.descriptors() == wanted

    def log(self) -> list[dict[str, str]]:
        """The records of the log."""
        return [json.loads(line) for line in self.log_path.read_bytes().splitlines()]

    def log_text(self, stream: str = "stdout") -> str:
        """What the log holds of a stream."""
        return "".join(record["log"] for record in self.log() if record["stream"] == stream)

    async def adopt(self) -> dict[str, Any]:
        """Connect again, as a new cortend does; the shim's hello."""
        self.client.close()
        self.client, hello = await ShimClient.connect(str(self.directory), events=self.on_event, lost=self.lost.set)
        return hello

    async def remove(self) -> dict[str, Any] | None:
        """Delete the container and end the shim; the exit record."""
        record = await self.client.delete(force=True)
        await self.client.shutdown()
        self.client.close()
        return record


class Lab:
    """An exec-root with a zygote; an async context manager that removes everything."""

    def __init__(self, runtime: str = "", *, root: Path | None = None, commands: Path = paths.COMMANDS) -> None:
        """`runtime`: path of an external runtime, '' for the built-in one; `commands`: where corten-shim lies."""
        self.runtime = runtime
        self.folder = paths.scratch("shim")
        self.root = root or self.folder / "run"
        self.tasks = self.root / "tasks"
        self.zygote = Zygote(str(commands / "corten-shim"), str(self.root))
        self.boxes: list[Box] = []
        self._layer = self.folder / "layer"

    async def __aenter__(self) -> Lab:
        self.tasks.mkdir(parents=True)
        mount.mount(str(self.tasks), str(self.tasks), None, mount.MS_BIND)
        mount.mount("none", str(self.tasks), None, mount.MS_PRIVATE)
        runtimes.bundle(folder=self._layer)
        for name in ("dd", "seq", "yes", "sha256sum", "tr", "grep", "ip", "dmesg", "nproc", "printf"):
            (self._layer / "rootfs/bin" / name).symlink_to("busybox")
        await self.zygote.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for box in self.boxes:
            await self._remove(box)
        await self.zygote.close()
        if kind is not None:
            self._show_logs()
        mount.umount(str(self.tasks), mount.MNT_DETACH)
        process.remove_cgroups(f"{paths.mark()}runtime")
        shutil.rmtree(self.folder)

    async def _remove(self, box: Box) -> None:
        for stream in box.streams:
            stream.close()
        pid = box.client.pid
        with contextlib.suppress(Exception):
            await asyncio.wait_for(box.remove(), 10)
        box.client.close()
        deadline = time.monotonic() + 5
        while is_alive(pid) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        if is_alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _show_logs(self) -> None:
        for path in self.tasks.glob(f"{TENANT}/*/shim.log"):
            if text := path.read_text(errors="replace"):
                print(f"--- {path}\n{text}")

    async def make(
        self,
        *args: str,
        tty: bool = False,
        stdin: bool = False,
        change: Callable[[dict[str, Any]], None] | None = None,
        log: Mapping[str, Any] | None = None,
        hold: Mapping[str, int] | None = None,
        size: tuple[int, int] | None = None,
        fork_only: bool = False,
    ) -> Box:
        """A created container; `change` edits its config.json."""
        id = f"box{len(self.boxes)}{os.urandom(2).hex()}"
        box = Box(self, id, self.tasks / TENANT / id)
        box.directory.mkdir(parents=True)
        box.client = await self.zygote.fork(str(box.directory), TENANT, id, events=box.on_event, lost=box.lost.set)
        self.boxes.append(box)
        box.config = runtimes.starter(args, tty)
        box.config["root"]["readonly"] = False
        if change is not None:
            change(box.config)
        (box.directory / "config.json").write_text(json.dumps(box.config))
        if not fork_only:
            await self.create(box, tty=tty, stdin=stdin, log=log, hold=hold, size=size)
        return box

    async def create(
        self,
        box: Box,
        *,
        tty: bool = False,
        stdin: bool = False,
        log: Mapping[str, Any] | None = None,
        hold: Mapping[str, int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """The op `create` with an overlay over the busybox layer."""
        upper, work = self.folder / f"{box.id}-upper", self.folder / f"{box.id}-work"
        for folder in (upper, work):
            folder.mkdir()
        options = [f"lowerdir={self._layer / 'rootfs'}", f"upperdir={upper}", f"workdir={work}"]
        request = CreateRequest(
            rootfs=[{"type": "overlay", "source": "overlay", "options": options}],
            terminal=tty,
            stdin_open=stdin,
            console_size=size,
            log=LogRequest(path=str(box.log_path), **(log or {})),
            runtime_path=self.runtime,
        )
        await box.client.create(request, hold=hold)

    async def run(self, *args: str, **options: Any) -> Box:
        """A started container."""
        box = await self.make(*args, **options)
        await box.client.start()
        return box


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.005)
