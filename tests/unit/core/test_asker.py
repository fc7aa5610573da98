"""Who asks: the peer of a socket, as the kernel knows it."""

from __future__ import annotations

import asyncio
import os
import socket

from corten.core import asker


def test_the_other_end_of_a_unix_socket_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = asker.of_socket(ours, "POST /containers/x/kill", own_pid=1)
        assert asker.of_socket(ours, "x").text == "a client over TLS"
    assert (found.by, found.pid, found.uid, found.gid) == ("client", os.getpid(), os.getuid(), os.getgid())
    assert found.command
    assert found.text == f"{found.command} (pid {os.getpid()}, uid {os.getuid()})"


def test_a_client_that_is_gone_or_far_away_has_no_pid() -> None:
    assert asker.of_socket(None, "x").text == "a client"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        connection, address = server.accept()
        with connection:
            assert asker.of_socket(connection, "x").text == str(address)
        assert client
    assert asker.of_socket(connection, "x").text == "a client"


def test_what_a_client_says_cannot_move_the_cursor_and_has_an_end() -> None:
    found = asker.of_socket(None, "POST /\x1b[2J\n" + "x" * 9999)
    assert found.operation.startswith("POST /\\x1b[2J\\nxxx")
    assert len(found.operation) == 256


async def test_work_inherits_who_asked_until_it_is_the_engine_s_own() -> None:
    async def work() -> tuple[str, str]:
        before = asker.current().by
        asker.set_engine()
        return before, asker.current().by

    assert asker.current() == asker.ENGINE
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asker.set_client(ours, "x")
    assert await asyncio.get_running_loop().create_task(work()) == ("client", "engine")
    assert asker.current().by == "client"
