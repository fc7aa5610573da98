"""Messages: size, descriptors, what is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import InvalidArgument, NotFound
from corten.shim import protocol
from corten.shim.protocol import INLINE_BYTES

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        yield left, right


@pytest.mark.parametrize("size", [0, 100, INLINE_BYTES - 20, INLINE_BYTES + 1, 3_000_000])
def test_a_message_of_any_size_arrives_with_its_descriptors(pair: Pair, size: int) -> None:
    message = {"op": "x", "text": "é" * (size // 2)}
    read_end, write_end = os.pipe()
    protocol.send(pair[0], protocol.encode(message), [write_end])
    os.close(write_end)
    body, fds = protocol.receive(pair[1])
    assert protocol.decode(body) == message
    assert len(fds) == 1
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"y")
    assert os.read(read_end, 1) == b"y"
    for fd in (read_end, *fds):
        os.close(fd)


def test_the_end_of_the_stream_is_an_empty_body(pair: Pair) -> None:
    pair[0].close()
    assert protocol.receive(pair[1]) == (b"", [])


def test_paths_that_are_not_utf8_pass(pair: Pair) -> None:
    message = {"path": os.fsdecode(b"/\xff")}
    protocol.send(pair[0], protocol.encode(message))
    assert protocol.decode(protocol.receive(pair[1])[0]) == message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 50000, b'{"a":}'])
def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        protocol.decode(body)


def test_a_memfd_message_without_a_memfd_is_refused(pair: Pair) -> None:
    pair[0].send(b"m")
    with pytest.raises(InvalidArgument):
        protocol.receive(pair[1])


def test_a_memfd_that_is_too_large_is_refused(pair: Pair) -> None:
    memfd = os.memfd_create("x")
    os.truncate(memfd, protocol.MESSAGE_BYTES + 1)
    socket.send_fds(pair[0], [b"m"], [memfd])
    os.close(memfd)
    with pytest.raises(InvalidArgument):
        protocol.receive(pair[1])


def test_an_oversized_datagram_is_refused(pair: Pair) -> None:
    pair[0].send(b"x" * (INLINE_BYTES + 2))
    with pytest.raises(InvalidArgument):
        protocol.receive(pair[1])


def test_errors_keep_their_kind_and_text() -> None:
    with pytest.raises(NotFound, match="No such exec instance: x"):
        protocol.raise_failure(protocol.failure(NotFound("No such exec instance: x")))


def test_a_socket_is_bound_and_reached_in_a_directory_with_a_long_name(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 150)
    directory.mkdir()
    listener = protocol.bind_listener(str(directory))
    with protocol.connect(str(directory)) as client:
        server, _ = listener.accept()
        client.send(b"hello")
        assert server.recv(10) == b"hello"
        server.close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        protocol.connect(str(directory))
    again = protocol.bind_listener(str(directory))
    protocol.connect(str(directory)).close()
    again.close()


def test_a_directory_without_a_shim_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        protocol.connect(str(tmp_path))
