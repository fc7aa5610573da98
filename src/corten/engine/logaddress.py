"""The addresses in log options, as (scheme, host or path, port), with dockerd's refusals (moby daemon/logger/*)."""

from __future__ import annotations

import os
import re
from typing import Final

from corten.errors import InvalidArgument

Address = tuple[str, str, int]

JOURNAL: Final = "/run/systemd/journal/socket"
_SYSLOG_PORT: Final = 514
_FLUENTD_PORT: Final = 24224
_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_PORT: Final = re.compile(r":[0-9]*")
_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", ""),
    *(f"local{number}" for number in range(8)),
)
_DAEMON: Final = 3


def _split(address: str) -> tuple[str, str, str]:
    """(scheme, host and port, path) of a URL."""
    found = _SCHEME.match(address)
    if found is None and ":" in address.partition("/")[0]:
        raise InvalidArgument(f'parse "{address}": first path segment in URL cannot contain colon')
    scheme, rest = (found[1].lower(), address[found.end() :]) if found is not None else ("", address)
    if not rest.startswith("//"):
        return scheme, "", rest
    host, slash, path = rest[2:].partition("/")
    tail = host.rpartition("]")[2] if host.startswith("[") else host[host.rfind(":") :] if ":" in host else ""
    if tail and not _PORT.fullmatch(tail):
        raise InvalidArgument(f'parse "{address}": invalid port "{tail}" after host')
    return scheme, host, slash + path


def _host_port(text: str) -> tuple[str, str | None]:
    """net.SplitHostPort; None for a port that is missing."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise InvalidArgument(f"address {text}: missing ']' in address")
        if not rest.startswith(":"):
            return host, None
        return host, rest[1:]
    if text.count(":") > 1:
        raise InvalidArgument(f"address {text}: too many colons in address")
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:9]) > 65535 or len(text) > 9:
        raise InvalidArgument(f'parse port: strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def syslog(address: str) -> Address:
    """`syslog-address`; ("", "", 0) for the machine's own.  Raises InvalidArgument."""
    if not address:
        return "", "", 0
    scheme, host, path = _split(address)
    if scheme in ("unix", "unixgram"):
        try:
            os.stat(path)
        except OSError as error:
            raise InvalidArgument(f"stat {path}: {(error.strerror or '').lower()}") from error
        return scheme, path, 0
    if scheme not in ("udp", "tcp", "tcp+tls"):
        raise InvalidArgument(f"unsupported scheme: '{scheme}'")
    name, port = _host_port(host)
    return scheme, name, _SYSLOG_PORT if port is None else _port(port)


def facility(text: str) -> int:
    """`syslog-facility` by name or number; `daemon` without one."""
    if not text:
        return _DAEMON
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isascii() and text.isdigit() and len(text) < 3 and int(text) <= 23:
        return int(text)
    raise InvalidArgument("invalid syslog facility")


def gelf(address: str) -> Address:
    """`gelf-address`, which must be there."""
    if not address:
        raise InvalidArgument("gelf-address is a required parameter")
    scheme, host, _ = _split(address)
    if scheme not in ("udp", "tcp"):
        raise InvalidArgument("gelf: endpoint needs to be TCP or UDP")
    try:
        name, port = _host_port(host)
    except InvalidArgument:
        port = None
    if port is None:
        raise InvalidArgument("gelf: please provide gelf-address as proto://host:port")
    return scheme, name, _port(port)


def fluentd(address: str) -> Address:
    """`fluentd-address`; 127.0.0.1:24224 without one."""
    if not address:
        return "tcp", "127.0.0.1", _FLUENTD_PORT
    scheme, host, path = _split(address if "://" in address else f"tcp://{address}")
    if scheme == "unix":
        if not path.lstrip("/"):
            raise InvalidArgument("path is empty")
        return scheme, path, 0
    if scheme not in ("tcp", "tls"):
        raise InvalidArgument(f"unsupported scheme: '{scheme}'")
    if path:
        raise InvalidArgument("should not contain a path element")
    name, port = _host_port(host)
    if port and (not port.isdigit() or int(port[:9]) > 65535):
        why = "value out of range" if port.isdigit() else "invalid syntax"
        raise InvalidArgument(f'invalid port: strconv.ParseUint: parsing "{port}": {why}')
    return scheme, name or "127.0.0.1", int(port) if port else _FLUENTD_PORT
