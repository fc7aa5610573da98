"""cortend's side of the resolver: found, forked, or followed when it does not answer."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corten.core import resolver as module
from corten.core.resolver import Resolver
from corten.errors import NotFound, Unavailable
from corten.shim import protocol


class Peer:
    """A resolver's end of a connection: answers each request with what `answer` makes of it; None: silence."""

    def __init__(self, sock: socket.socket, answer: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        self.sock = sock
        self.asked: list[str] = []
        self._answer = answer
        sock.setblocking(True)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while body := protocol.receive(self.sock)[0]:
            request = protocol.decode(body)
            self.asked.append(request["op"])
            made = self._answer(request)
            if made is not None:
                protocol.send(self.sock, protocol.encode({"seq": request["seq"], **made}))

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.sock.close()


class FakeZygote:
    def __init__(self) -> None:
        self.forked: list[Peer] = []

    async def resolver(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.forked.append(Peer(theirs, lambda request: {"ok": {"containers": []}}))
        return ours


def made(root: Path) -> tuple[Resolver, FakeZygote, list[str]]:
    zygote, lost = FakeZygote(), list[str]()
    return Resolver(zygote, str(root), lost=lambda: lost.append("lost")), zygote, lost  # type: ignore[arg-type]


async def test_where_there_is_none_it_is_forked(tmp_path: Path) -> None:
    resolver, zygote, lost = made(tmp_path)
    assert (resolver.is_there(), resolver.is_open) == (False, False)
    assert await resolver.open() == frozenset()
    await resolver.tell("leave", network="n", container="c")
    assert zygote.forked[0].asked == ["hello", "leave"]
    resolver.close()
    zygote.forked[0].close()
    assert lost == []


async def test_one_that_is_there_is_found(tmp_path: Path) -> None:
    resolver, zygote, _ = made(tmp_path)
    with protocol.bind_listener(str(tmp_path), protocol.NAMES_SOCKET) as listener:
        listener.setblocking(True)
        assert resolver.is_there()
        listener.accept()[0].close()
        opening = asyncio.ensure_future(resolver.open())
        connection = (await asyncio.to_thread(listener.accept))[0]
        peer = Peer(connection, lambda request: {"ok": {"containers": ["c1"]}})
        assert await opening == {"c1"}
        assert module.pid_of(str(tmp_path)) == os.getpid()
        listener.accept()[0].close()
    resolver.close()
    peer.close()
    assert zygote.forked == []


async def test_one_that_does_not_answer_is_followed_and_no_stranger_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver, zygote, _ = made(tmp_path)
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    with protocol.bind_listener(str(tmp_path), protocol.NAMES_SOCKET):  # this test's, which goes on
        found = zygote.resolver

        async def fork() -> socket.socket:
            monkeypatch.setattr(module, "_TIMEOUT_S", 60.0)
            return await found()

        monkeypatch.setattr(zygote, "resolver", fork)
        assert await resolver.open() == frozenset()
    resolver.close()
    zygote.forked[0].close()


async def test_the_end_of_it_is_told_once_and_requests_fail(tmp_path: Path) -> None:
    resolver, zygote, lost = made(tmp_path)
    with pytest.raises(Unavailable):
        await resolver.tell("leave")
    await resolver.open()
    zygote.forked[0].close()
    with pytest.raises(Unavailable):
        await resolver.tell("leave")
    await asyncio.sleep(0)
    assert (lost, resolver.is_open) == (["lost"], False)


async def test_what_it_refuses_is_raised(tmp_path: Path) -> None:
    resolver, zygote, _ = made(tmp_path)
    await resolver.open()
    zygote.forked[0]._answer = lambda request: {"error": {"kind": "not-found", "text": "network n is not known"}}
    with pytest.raises(NotFound, match="is not known"):
        await resolver.tell("leave", network="n", container="c")
    resolver.close()
    zygote.forked[0].close()


def test_without_a_socket_nobody_is_killed(tmp_path: Path) -> None:
    assert module.pid_of(str(tmp_path)) == 0
    module.kill(str(tmp_path))
