"""`system dial-stdio`: stdin and stdout become the engine's socket, for `-H ssh://` of a client elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket

import click

from corten.cli.command import Command, operands
from corten.cli.session import Session, pass_session
from corten.cli.stream import STDIN, STDOUT, ready, send_some, write_all

_CHUNK = 65536


@click.command(
    "dial-stdio",
    cls=Command,
    hidden=True,
    at_most=0,
    help="Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
)
@operands()
@pass_session
def dial_stdio(session: Session, /, operands: tuple[str, ...]) -> None:
    """Copies both ways until the engine has ended; the end of stdin is passed on."""
    with session.client.dial() as sock:
        _copy(sock)


def _copy(sock: socket.socket) -> None:
    stdin, pending = True, b""
    while True:
        readable, writable = ready(sock, bool(pending), stdin and not pending)
        if sock.fileno() in readable:
            data = sock.recv(_CHUNK)
            if not data:
                return
            write_all(STDOUT, data)
        if writable:
            pending = send_some(sock, pending)
        if STDIN in readable:
            data = os.read(STDIN, _CHUNK)
            pending = send_some(sock, data)
            if not data:
                stdin = False
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
