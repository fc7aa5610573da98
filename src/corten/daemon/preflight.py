"""What can be known to fail before cortend makes anything: it is said with the setting's name, and nothing is left."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from corten.daemon.config import named
from corten.daemon.listeners import FD, TCP, UNIX, group_id, metrics, tcp_address
from corten.engine.settings import Settings
from corten.errors import InvalidArgument


def check(settings: Settings) -> None:
    """Raises `InvalidArgument` that names the setting.  Directories that were made for the check go again then."""
    made: list[str] = []
    try:
        for key, path in (("data-root", settings.data_root), ("exec-root", settings.exec_root)):
            _try(settings, key, path, _directory, made)
        for host in settings.hosts:
            _try(settings, "hosts", host, _host, made)
        _group(settings)
        if settings.metrics_addr:
            _try(settings, "metrics-addr", settings.metrics_addr, _metrics, made)
        if settings.pidfile:
            _try(settings, "pidfile", settings.pidfile, _pidfile, made)
    except InvalidArgument:
        for path in reversed(made):
            os.rmdir(path)
        raise


def _try(settings: Settings, key: str, value: str, work: Callable[[str, list[str]], None], made: list[str]) -> None:
    try:
        work(value, made)
    except OSError as error:
        where = "" if error.filename in (None, value) else f"{error.filename}: "
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(f"{named(settings, key)} {value}: {where}{reason}") from error


def _directory(path: str, made: list[str]) -> None:
    """Makes it, and notes each directory that was not there."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for name in reversed(missing):
        os.mkdir(name, 0o711)
        made.append(name)
    os.close(os.open(missing[0] if missing else path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _host(host: str, made: list[str]) -> None:
    if host.startswith(FD):
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            raise OSError(errno.ENOENT, "no sockets found via socket activation: was cortend started by systemd?")
        return
    if host.startswith(UNIX):
        _directory(os.path.dirname(os.path.abspath(host.removeprefix(UNIX))), made)
        return
    family, address = tcp_address(host.removeprefix(TCP))
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _metrics(text: str, _: list[str]) -> None:
    try:
        metrics(text).close()
    except OSError as error:
        if error.errno is None or error.errno < 0:  # of a name that is not found
            raise
        raise OSError(error.errno, os.strerror(error.errno)) from None  # without what Python adds


def _group(settings: Settings) -> None:
    try:
        group_id(settings.group)
    except InvalidArgument as error:
        raise InvalidArgument(f"{named(settings, 'group')}: {error.text}") from error


def _pidfile(path: str, _: list[str]) -> None:
    """It can be written; one that was not there is not there afterwards."""
    is_new = not os.path.lexists(path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    if is_new:
        os.unlink(path)
