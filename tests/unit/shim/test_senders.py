"""What each log driver puts on the wire, read by a server of the test's own."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from corten.shim import delivery
from corten.shim.delivery import Driver
from corten.shim.lines import PIECE_BYTES, Line, Lines
from corten.shim.sendfluentd import Fluentd, mapping, seconds
from corten.shim.sendgelf import Gelf, chunks
from corten.shim.sendjournald import Journald, field
from corten.shim.sendsyslog import Syslog
from support import certificates

MOMENT = 1_700_000_000_123_456_789
HOST = socket.gethostname()


def udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.settimeout(60)
    return made


def tcp() -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0))
    made.settimeout(60)
    return made


def deaf() -> socket.socket:
    """Nobody listens: who connects is refused."""
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.settimeout(60)
    return made


def order(scheme: str, server: socket.socket | None, **more: Any) -> dict[str, Any]:
    host, port = server.getsockname() if server is not None else ("", 0)
    return {"tag": "box", "address": [scheme, host, port], "facility": 3, "id": "a1" * 32, "name": "web", **more}


def sent(driver: Driver, *lines: tuple[str, str]) -> None:
    with closing(driver):
        driver.connect()
        for source, text in lines:
            driver.send(source, Line(text.encode(), MOMENT))


STAMP = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
ZONE = r"(Z|[+-]\d\d:\d\d)"
FORMATS = [
    ("", rf"<30>{STAMP} box\[\d+\]: hi\n"),
    ("rfc3164", rf"<30>{STAMP} {re.escape(HOST)} box\[\d+\]: hi\n"),
    ("rfc5424", rf"<30>1 \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d{ZONE} {re.escape(HOST)} box \d+ box - hi\n"),
    ("rfc5424micro", rf"<30>1 \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{6}}{ZONE} {re.escape(HOST)} box \d+ box - hi\n"),
]


@pytest.mark.parametrize(("form", "expected"), FORMATS)
def test_syslog_has_four_forms(form: str, expected: str) -> None:
    with udp() as server:
        sent(Syslog(order("udp", server, options={"syslog-format": form})), ("stdout", "hi"), ("stderr", "bad"))
        assert re.fullmatch(expected, server.recv(4096).decode())
        assert server.recv(4096).startswith(b"<27>")


def test_syslog_over_tcp_comes_in_lines_and_connects_again() -> None:
    with tcp() as server, closing(Syslog(order("tcp", server))) as driver:
        driver.connect()
        first, _ = server.accept()
        driver.send("stdout", Line(b"one", MOMENT))
        assert first.recv(4096).endswith(b": one\n")
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        for text in (b"two", b"three"):  # the first may still go into the dead connection
            driver.send("stdout", Line(text, MOMENT))
        second, _ = server.accept()
        second.settimeout(60)
        assert second.recv(4096).endswith(b"three\n")
        second.close()


def test_syslog_over_a_unix_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))
        sent(Syslog({**order("unixgram", None), "address": ["unixgram", str(tmp_path / "s"), 0]}), ("stdout", "x"))
        assert server.recv(4096).endswith(b"]: x\n")


def test_an_empty_line_is_no_message_of_syslog() -> None:
    with udp() as server:
        sent(Syslog(order("udp", server)), ("stdout", ""), ("stdout", "x"))
        assert server.recv(4096).endswith(b"]: x\n")


def test_syslog_over_tls_checks_the_certificate_and_counts_rfc5424(tmp_path: Path) -> None:
    authority = certificates.Authority(tmp_path)
    pair = authority.issue("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    got: list[bytes] = []
    with tcp() as server:

        def serve() -> None:
            connection, _ = server.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                got.append(secured.recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        options = {"syslog-format": "rfc5424", "syslog-tls-ca-cert": str(authority.ca)}
        sent(Syslog(order("tcp+tls", server, options=options)), ("stdout", "secret"))
        thread.join(60)
    length, _, message = got[0].partition(b" ")
    assert int(length) == len(message)
    assert message.endswith(b"- secret\n")


def test_a_server_that_is_not_there_is_named() -> None:
    with deaf() as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"dial tcp 127.0.0.1:{port}: connect: connection refused"):
            Syslog(order("tcp", server)).connect()
        with pytest.raises(ValueError, match=f"gelf: cannot connect to GELF endpoint: 127.0.0.1:{port} dial tcp"):
            Gelf(order("tcp", server)).connect()


def test_a_certificate_that_cannot_be_read_is_named() -> None:
    options = {"syslog-tls-ca-cert": "/nonexistent"}
    driver = Syslog({**order("tcp+tls", None), "address": ["tcp+tls", "127.0.0.1", 1], "options": options})
    with pytest.raises(ValueError, match='could not read CA certificate "/nonexistent": open /nonexistent: no such'):
        driver.connect()


@pytest.mark.parametrize(
    ("kind", "unpack"), [("", gzip.decompress), ("gzip", gzip.decompress), ("zlib", zlib.decompress), ("none", bytes)]
)
def test_gelf_over_udp_is_compressed(kind: str, unpack: Callable[[bytes], bytes]) -> None:
    options = {"gelf-compression-type": kind} if kind else {}
    with udp() as server:
        sent(Gelf(order("udp", server, options=options, attributes={"_a": "1"})), ("stderr", "h\u00e9"))
        assert json.loads(unpack(server.recv(65536))) == {
            "version": "1.1",
            "host": HOST,
            "short_message": "h\u00e9",
            "timestamp": 1_700_000_000.123,
            "level": 3,
            "_a": "1",
        }


def test_gelf_over_tcp_ends_with_a_zero() -> None:
    with tcp() as server, closing(Gelf(order("tcp", server))) as driver:
        driver.connect()
        connection, _ = server.accept()
        driver.send("stdout", Line(b"x", MOMENT))
        assert json.loads(connection.recv(4096).removesuffix(b"\0"))["level"] == 6
        connection.close()


def test_a_large_gelf_message_comes_in_chunks() -> None:
    data = os.urandom(5000)
    parts = chunks(data)
    assert [part[:2] for part in parts] == [b"\x1e\x0f"] * 4
    assert len({part[2:10] for part in parts}) == 1
    assert [tuple(part[10:12]) for part in parts] == [(number, 4) for number in range(4)]
    assert b"".join(part[12:] for part in parts) == data
    with pytest.raises(ValueError, match="msg too large, would need 143 chunks"):
        chunks(bytes(200_000))


def test_journald_gets_docker_s_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))
        more = {"address": ["unixgram", str(tmp_path / "s"), 0], "attributes": {"IMAGE_NAME": "busybox", "A": "x\ny"}}
        sent(Journald({**order("", None), **more}), ("stderr", "hello"))
        entry = server.recv(65536)
    for expected in (
        b"MESSAGE=hello\n",
        b"PRIORITY=3\n",
        b"SYSLOG_TIMESTAMP=2023-11-14T22:13:20.123456789Z\n",
        b"CONTAINER_ID=a1a1a1a1a1a1\n",
        b"CONTAINER_ID_FULL=%s\n" % (b"a1" * 32),
        b"CONTAINER_NAME=web\n",
        b"CONTAINER_TAG=box\n",
        b"SYSLOG_IDENTIFIER=box\n",
        b"CONTAINER_LOG_ORDINAL=1\n",
        b"IMAGE_NAME=busybox\n",
        b"A\n\x03\0\0\0\0\0\0\0x\ny\n",
    ):
        assert expected in entry


def test_a_journal_that_comes_back_gets_what_is_sent_from_then_on_large_entries_too(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def journal() -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.bind(str(path))
        made.settimeout(60)
        return made

    driver = Journald({**order("", None), "address": ["unixgram", str(path), 0]})
    with closing(driver):
        with journal() as first:
            driver.connect()
            driver.send("stdout", Line(b"before", MOMENT))
            assert b"MESSAGE=before\n" in first.recv(4096)
        path.unlink()
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                driver.send("stdout", Line(b"lost", MOMENT))
        large = b"x" * (4 << 20)
        for text in (b"again", large):
            with journal() as second:
                driver.send("stdout", Line(text, MOMENT))
                _, rights, _, _ = socket.recv_fds(second, 4096, 1) if text == large else (second.recv(4096), [], 0, 0)
                if text == large:
                    with open(rights[0], "rb") as file:
                        file.seek(0)
                        assert b"MESSAGE=" + large + b"\n" in file.read()
            path.unlink()


def test_a_journal_that_is_not_there_is_named(tmp_path: Path) -> None:
    driver = Journald({**order("", None), "address": ["unixgram", str(tmp_path / "nope"), 0]})
    with closing(driver), pytest.raises(ValueError, match="journald is not enabled on this host"):
        driver.connect()


def test_a_field_with_a_newline_has_its_length() -> None:
    assert field("A", b"x") == b"A=x\n"
    assert field("A", b"\n") == b"A\n\x01\0\0\0\0\0\0\0\n\n"


def unpacked(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The little MessagePack of the forward protocol, and where it ends."""
    kind = data[at]
    if kind & 0xF0 == 0x80:
        return pairs(data, at + 1, kind & 0x0F)
    if kind == 0xDE:
        return pairs(data, at + 3, struct.unpack_from(">H", data, at + 1)[0])
    if kind & 0xF0 == 0x90:
        out, at = [], at + 1
        for _ in range(kind & 0x0F):
            value, at = unpacked(data, at)
            out.append(value)
        return out, at
    if kind & 0xE0 == 0xA0:
        return data[at + 1 : at + 1 + (kind & 0x1F)].decode(), at + 1 + (kind & 0x1F)
    if kind == 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 1)
        return data[at + 3 : at + 3 + length].decode(), at + 3 + length
    if kind == 0xD3:
        return struct.unpack_from(">q", data, at + 1)[0], at + 9
    assert (kind, data[at + 1]) == (0xD7, 0)
    return struct.unpack_from(">II", data, at + 2), at + 10


def pairs(data: bytes, at: int, count: int) -> tuple[dict[str, Any], int]:
    out: dict[str, Any] = {}
    for _ in range(count):
        key, at = unpacked(data, at)
        out[key], at = unpacked(data, at)
    return out, at


def test_fluentd_gets_a_record_with_docker_s_keys() -> None:
    with tcp() as server, closing(Fluentd(order("tcp", server, attributes={"env": "prod"}))) as driver:
        driver.connect()
        connection, _ = server.accept()
        driver.send("stdout", Line(b"hi", MOMENT))
        assert unpacked(connection.recv(4096))[0] == [
            "box",
            1_700_000_000,
            {"container_id": "a1" * 32, "container_name": "/web", "source": "stdout", "log": "hi", "env": "prod"},
            {},
        ]
        connection.close()


def test_fluentd_has_pieces_nanoseconds_and_acks() -> None:
    options = {"fluentd-sub-second-precision": "true", "fluentd-request-ack": "true"}
    with tcp() as server, closing(Fluentd(order("tcp", server, options=options))) as driver:
        driver.connect()
        connection, _ = server.accept()
        seen: list[Any] = []

        def answer() -> None:
            data = b""
            while True:
                data += connection.recv(65536)
                try:
                    message, _ = unpacked(data)
                except (IndexError, struct.error):
                    continue
                if len(message) == 4 and message[3]:
                    break
            seen.append(message)
            connection.sendall(mapping({"ack": message[3]["chunk"]}))

        thread = threading.Thread(target=answer)
        thread.start()
        driver.send("stderr", Lines().feed(b"x" * PIECE_BYTES, MOMENT)[0])
        thread.join(60)
        connection.close()
    tag, moment, record, _ = seen[0]
    assert (tag, moment) == ("box", (1_700_000_000, 123_456_789))
    assert (record["partial_message"], record["partial_ordinal"], record["partial_last"]) == ("true", "1", "false")
    assert len(record["log"]) == PIECE_BYTES


def test_fluentd_waits_for_its_server_unless_it_must_be_there() -> None:
    with deaf() as server:
        there = order("tcp", server)
        with pytest.raises(ConnectionRefusedError):
            Fluentd(there).connect()
        options = {"fluentd-async": "true", "fluentd-retry-wait": "50ms"}
        driver = Fluentd({**there, "options": options})
        driver.connect()
        sending = threading.Thread(target=lambda: driver.send("stdout", Line(b"late", MOMENT)), daemon=True)
        sending.start()
        server.listen()
        connection, _ = server.accept()
        assert b"late" in connection.recv(4096)
        connection.close()
    sending.join(60)
    driver.close()


def test_a_limit_of_tries_is_kept() -> None:
    options = {"fluentd-async": "true", "fluentd-retry-wait": "1ms", "fluentd-max-retries": "3"}
    with deaf() as server, pytest.raises(ConnectionRefusedError):
        Fluentd({**order("tcp", server), "options": options}).send("stdout", Line(b"x", MOMENT))


@pytest.mark.parametrize(("text", "expected"), [("", 0), ("1s", 1), ("500ms", 0.5), ("1m30s", 90), ("1.5s", 1.5)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


class Flaky(Driver):
    """Refuses every second line."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.count = 0

    def connect(self) -> None:
        """Nobody."""

    def send(self, source: str, line: Line) -> None:
        self.count += 1
        if self.count % 2 == 0:
            raise OSError("no")
        self.got.append(line.text)

    def close(self) -> None:
        self.got.append(b"closed")


def test_a_line_that_is_not_taken_holds_up_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    driver = Flaky()
    delivery.deliver(iter([(1, MOMENT, b"a\nb\nc\nd"), (1, MOMENT, b"\ne\nend"), (1, MOMENT, b"")]), driver)
    assert driver.got == [b"a", b"c", b"e", b"closed"]
    assert "a line of the log is lost: no" in capfd.readouterr().err


def test_a_server_that_talks_without_end_instead_of_an_ack_is_an_error() -> None:
    options = {"fluentd-request-ack": "true", "fluentd-max-retries": "0"}
    with tcp() as server:
        talked: list[int] = []

        def talk() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                while len(talked) < 10_000:
                    talked.append(connection.send(b"\x81" * 4096))

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(OSError, match="no ack"):
            sent(Fluentd(order("tcp", server, options=options)), ("stdout", "hi"))
        thread.join(60)
    assert len(talked) < 10_000
