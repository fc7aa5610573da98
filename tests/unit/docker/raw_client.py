"""A client that says exactly what a test wants said, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any

from corten.docker.server import Door
from unit.docker.fake_engine import FakeEngine


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; header names in lower case."""

    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The text of an error."""
        text: str = self.json["message"]
        return text


class Client:
    """One connection to a door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, str, dict[str, str]]:
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)
        lines = raw.decode("latin-1").split("\r\n")
        _, status, phrase = lines[0].split(" ", 2)
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(status), phrase, {name.lower(): value for name, value in pairs}

    async def answer(self, *, has_body: bool = True) -> Answer:
        status, phrase, headers = await self.head()
        body = b""
        if has_body and headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                body += piece
        elif has_body:
            body = await self.exactly(int(headers.get("content-length", "0")))
        return Answer(status, phrase, headers, body)

    async def chunk(self) -> bytes:
        """The next chunk, empty at the end."""
        size = int(await asyncio.wait_for(self.reader.readline(), 10), 16)
        data = await self.exactly(size)
        assert await self.exactly(2) == b"\r\n"
        return data

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), 60)

    async def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        return await asyncio.wait_for(self.reader.read(-1), 60)

    async def ask(self, method: str, target: str, body: Any = None, headers: tuple[str, ...] = ()) -> Answer:
        """One ordinary request; a body that is not bytes is sent as JSON."""
        lines = [f"{method} {target} HTTP/1.1", "Host: docker", *headers]
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if body is not None and not isinstance(body, bytes):
            lines.append("Content-Type: application/json")
        if body is not None:
            lines.append(f"Content-Length: {len(data)}")
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return await self.answer(has_body=method != "HEAD")

    def half_close(self) -> None:
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.transport.abort()


class Harness:
    """A door on a unix socket with a fake engine behind it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.engine = FakeEngine()
        self.door = Door(self.engine, version="0.1")
        self.clients: list[Client] = []

    async def start(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        await self.door.serve(listener)

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.path))
        self.clients.append(client)
        return client

    async def ask(self, method: str, target: str, body: Any = None, headers: tuple[str, ...] = ()) -> Answer:
        """A request on a connection of its own."""
        client = await self.connect()
        answer = await client.ask(method, target, body, headers)
        client.close()
        return answer

    async def create(self, command: list[str], **config: Any) -> str:
        body = {"Image": "busybox", "Cmd": command, **config}
        answer = await self.ask("POST", "/v1.51/containers/create", body)
        assert answer.status == 201, answer
        container_id: str = answer.json["Id"]
        return container_id

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        for program in self.engine.programs:
            program.stopped.set()
        await eventually(self.engine.is_quiet, "all programs have ended")
        await asyncio.sleep(0)
        await self.door.close()


async def eventually(condition: Any, what: str, timeout_s: float = 30.0) -> None:
    """Wait until `condition()` is true."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"still not: {what}"
        await asyncio.sleep(0.005)
