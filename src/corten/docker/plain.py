"""Answers that the front writes by itself, without aiohttp: refusals, and what attach and exec start say."""

from __future__ import annotations

from collections.abc import Mapping

from corten.docker.status import error_body, reason

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


def plain_response(status: int, body: bytes, headers: Mapping[str, str], *, keep_alive: bool) -> bytes:
    """A whole HTTP/1.1 answer with a body of known length."""
    lines = [f"HTTP/1.1 {status} {reason(status)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    if not keep_alive:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head if status in (204, 304) else head + body


def error_response(status: int, text: str, headers: Mapping[str, str], *, keep_alive: bool) -> bytes:
    """An error answer in Docker's form."""
    typed = {**headers, "Content-Type": "application/json"}
    return plain_response(status, error_body(text), typed, keep_alive=keep_alive)


def stream_head(upgrade: bool, multiplexed: bool, headers: Mapping[str, str]) -> bytes:
    """The head after which a connection is a raw stream: 101 when the client asked for an upgrade, else 200.

    `multiplexed` (no tty, API ≥ 1.42) only shows in the content type of an upgraded connection, as in dockerd.
    """
    if upgrade:
        content_type = MULTIPLEXED_STREAM if multiplexed else RAW_STREAM
        lines = ["HTTP/1.1 101 UPGRADED", f"Content-Type: {content_type}", "Connection: Upgrade", "Upgrade: tcp"]
    else:
        lines = ["HTTP/1.1 200 OK", f"Content-Type: {RAW_STREAM}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def stdout_frame(text: str) -> bytes:
    """Text as one frame of stdout: stream 1, three zero bytes, length big-endian (Docker API ContainerAttach)."""
    data = text.encode()
    return b"\x01\x00\x00\x00" + len(data).to_bytes(4, "big") + data
