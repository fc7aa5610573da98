"""What dockerd and Corten put on the wire for the same container: the same, but for times, ids and process ids."""

from __future__ import annotations

import ctypes
import gzip
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import images
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.netns import NetNs
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
SCRIPT = """
echo out; sleep 0.2; echo err >&2; sleep 0.2; echo
head -c 20000 /dev/zero | tr '\\0' x; echo; printf 'end \\351'
"""
COMMON = ("--name", "wired", "--label", "team=red", "-e", "STAGE=x y", "-e", "SECRET=1", "--log-opt", "labels=team",
          "--log-opt", "env-regex=^STA", "--log-opt", "tag={{.Name}}-{{.ImageName}}")  # fmt: skip
CLONE_NEWNET = 0x40000000
Enough = Callable[[list[bytes]], bool]


def inside(netns: NetNs, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket of a network namespace, made by a thread that goes there and ends."""
    made: list[socket.socket] = []

    def go() -> None:
        with open(netns.path, "rb") as there:
            assert ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET) == 0
        made.append(make())

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    return made[0]


class Server:
    """Takes what comes until it is enough, and for a moment more."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.got: list[bytes] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        sock.settimeout(0.2)
        self._thread.start()

    def _run(self) -> None:
        if self.sock.type == socket.SOCK_DGRAM:
            self._read(self.sock)
            return
        while not self._over.is_set():
            try:
                connection, _ = self.sock.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(0.2)
                self._read(connection)

    def _read(self, sock: socket.socket) -> None:
        while not self._over.is_set():
            try:
                data = sock.recv(1 << 20)
            except TimeoutError:
                continue
            if not data:
                return
            self.got.append(data)

    def close(self, is_enough: Enough) -> list[bytes]:
        try:
            wait_for(lambda: is_enough(self.got), "everything that is sent")
            time.sleep(0.5)  # what is too much
        finally:
            self._over.set()
            self._thread.join()
            self.sock.close()
        return self.got


def sent(side: Dockerd | CortenEngine, sock: socket.socket, is_enough: Enough, *options: str) -> list[bytes]:
    """What a container's driver sends to `sock`."""
    server = Server(sock)
    side.docker("rm", "-f", "wired")
    side.docker("run", "--network", "none", *COMMON, *options, IMAGE, "sh", "-c", SCRIPT, check=True, timeout=60)
    side.docker("rm", "wired", check=True)
    return server.close(is_enough)


def unix(folder: Path, kind: socket.SocketKind) -> socket.socket:
    path = folder / "sock"
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 12201))
    return made


def tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 12201))


@pytest.fixture(scope="module")
def sides(dockerd: Dockerd) -> Iterator[tuple[Dockerd, CortenEngine]]:
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield dockerd, engine


NORMAL = (
    (rb"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d", b"<stamp>"),
    (rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}([+-]\d\d:\d\d|Z)", b"<micros>"),
    (rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z)", b"<seconds>"),
    (rb"(?<=\[)\d+(?=\]: )|(?<= )\d+(?= wired)", b"<pid>"),
)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "form", ["", pytest.param("rfc3164", marks=SLOW), "rfc5424", pytest.param("rfc5424micro", marks=SLOW)]
)
def test_syslog(sides: tuple[Dockerd, CortenEngine], tmp_path: Path, form: str) -> None:
    options = ["--log-driver", "syslog", "--log-opt", f"syslog-address=unixgram://{tmp_path}/sock"]
    options += ["--log-opt", f"syslog-format={form}", "--log-opt", "syslog-facility=local3"] if form else []
    found = []
    for side in sides:
        messages = sent(side, unix(tmp_path, socket.SOCK_DGRAM), lambda got: len(got) >= 5, *options)
        for pattern, stands in NORMAL:
            messages = [re.sub(pattern, stands, one) for one in messages]
        found.append(sorted(messages))
    assert len(found[0]) == 5
    assert found[1] == found[0]


def is_last(datagram: bytes) -> bool:
    """Whether a message of GELF ends with it (its chunks come in order)."""
    return not datagram.startswith(b"\x1e\x0f") or datagram[10] + 1 == datagram[11]


def message(data: bytes) -> dict[str, Any]:
    """A message of GELF, without what each run has of its own."""
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    elif not data.startswith(b"{"):
        data = zlib.decompress(data)
    found: dict[str, Any] = json.loads(data)
    for key in ("timestamp", "_container_id", "_created"):
        assert found.pop(key)
    return found


@pytest.mark.parametrize("kind", [pytest.param("gzip"), *(pytest.param(one, marks=SLOW) for one in ("zlib", "none"))])
def test_gelf_over_udp(sides: tuple[Dockerd, CortenEngine], kind: str) -> None:
    options = ["--log-driver", "gelf", "--log-opt", "gelf-address=udp://127.0.0.1:12201"]
    options += ["--log-opt", f"gelf-compression-type={kind}"]
    found = []
    for side in sides:
        datagrams = sent(side, inside(side.netns, udp), lambda got: sum(map(is_last, got)) >= 5, *options)
        whole = [one for one in datagrams if not one.startswith(b"\x1e\x0f")]
        chunks = sorted((one for one in datagrams if one.startswith(b"\x1e\x0f")), key=lambda one: (one[2:10], one[10]))
        parts: dict[bytes, bytes] = {}
        for one in chunks:
            parts[one[2:10]] = parts.get(one[2:10], b"") + one[12:]
        found.append(sorted((message(one) for one in [*whole, *parts.values()]), key=str))
    assert len(found[0]) == 5
    assert found[1] == found[0]


@SLOW
def test_gelf_over_tcp(sides: tuple[Dockerd, CortenEngine]) -> None:
    options = ("--log-driver", "gelf", "--log-opt", "gelf-address=tcp://127.0.0.1:12201")
    found = []
    for side in sides:
        data = b"".join(sent(side, inside(side.netns, tcp), lambda got: b"".join(got).count(b"\0") >= 5, *options))
        found.append(sorted((message(one) for one in data.split(b"\0") if one), key=str))
    assert len(found[0]) == 5
    assert found[1] == found[0]


PRECISE = ("--log-opt", "fluentd-sub-second-precision=true")


@pytest.mark.parametrize("more", [(), pytest.param(PRECISE, marks=SLOW)])
def test_fluentd(sides: tuple[Dockerd, CortenEngine], tmp_path: Path, more: tuple[str, ...]) -> None:
    options = ("--log-driver", "fluentd", "--log-opt", f"fluentd-address=unix://{tmp_path}/sock", *more)
    found = []
    for side in sides:
        server = unix(tmp_path, socket.SOCK_STREAM)
        data, at = b"".join(sent(side, server, lambda got: b"".join(got).count(b"container_id") >= 6, *options)), 0
        messages = []
        while at < len(data):
            (tag, moment, record, option), at = unpacked(data, at)
            assert abs((moment[0] if isinstance(moment, tuple) else moment) - time.time()) < 600
            assert record.pop("container_id")
            record.pop("partial_id", None)
            messages.append((tag, type(moment), record, option))
        found.append(sorted(messages, key=lambda one: str(sorted(one[2].items()))))
    assert len(found[0]) == 6
    assert found[1] == found[0]


_LENGTHS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}


def unpacked(data: bytes, at: int) -> tuple[Any, int]:
    """One value of MessagePack, and where it ends."""
    kind, at = data[at], at + 1
    if kind < 0x80:
        return kind, at
    if kind == 0xC0:
        return None, at
    if kind in _NUMBERS:
        return struct.unpack_from(_NUMBERS[kind], data, at)[0], at + struct.calcsize(_NUMBERS[kind])
    if kind & 0xF0 == 0x90:
        items = []
        for _ in range(kind & 0x0F):
            item, at = unpacked(data, at)
            items.append(item)
        return items, at
    if kind & 0xF0 == 0x80 or kind == 0xDE:
        count, at = (kind & 0x0F, at) if kind != 0xDE else (struct.unpack_from(">H", data, at)[0], at + 2)
        pairs = {}
        for _ in range(count):
            key, at = unpacked(data, at)
            pairs[key.decode()], at = unpacked(data, at)
        return pairs, at
    if kind == 0xD7:
        return struct.unpack_from(">II", data, at + 1), at + 9
    if kind == 0xC7:
        return struct.unpack_from(">II", data, at + 2), at + 2 + data[at]
    if kind & 0xE0 == 0xA0:
        length = kind & 0x1F
    else:
        length, at = struct.unpack_from(_LENGTHS[kind], data, at)[0], at + struct.calcsize(_LENGTHS[kind])
    return data[at : at + length], at + length
