"""A TCP connection to the first address of a name that answers.

Unlike create_connection, which gives every address the whole timeout, all have one between them, as in Go's net.Dialer:
who names a thousand addresses behind which nobody is gets no more time.  A request that is given up dials no further.
"""

from __future__ import annotations

import socket
import time

from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from corten.registry.watch import current, hold

ADDRESSES_MAX = 64
LEAST_SECONDS = 2.0
"""What an address gets at least, while there is as much left."""


def dial(connection: HTTPConnection) -> socket.socket:
    """A connected socket.  Raises NameResolutionError, ConnectTimeoutError, NewConnectionError (with its cause)."""
    host, port = connection.host.strip("[]"), connection.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:ADDRESSES_MAX]
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except UnicodeError as error:
        raise NameResolutionError(connection.host, connection, socket.gaierror(str(error))) from error
    end = time.monotonic() + float(connection.timeout or 0)
    first: OSError | None = None
    for position, (family, kind, protocol, _, address) in enumerate(found):
        left = end - time.monotonic()
        watch = current()
        if left <= 0 or (watch is not None and watch.is_tripped):
            break
        share = min(left, max(left / (len(found) - position), LEAST_SECONDS))
        try:
            return _connected(socket.socket(family, kind, protocol), address, connection, share)
        except OSError as error:
            first = first or error
    if first is None or isinstance(first, TimeoutError):
        raise ConnectTimeoutError(connection, f"connection to {host} timed out") from first
    raise NewConnectionError(connection, str(first)) from first


def _connected(sock: socket.socket, address: object, connection: HTTPConnection, share: float) -> socket.socket:
    try:
        hold(sock, is_ready=False)
        for option in connection.socket_options or ():
            sock.setsockopt(*option)
        sock.settimeout(share)
        sock.connect(address)  # type: ignore[arg-type] # what getaddrinfo gave
        sock.settimeout(connection.timeout)
    except BaseException:
        sock.close()
        raise
    return sock
