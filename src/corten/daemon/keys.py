"""Values of daemon.json's keys that say what containers get, and how cortend itself behaves (moby daemon/config).

Each takes the key and the value of the file, and returns what Settings has; all raise InvalidArgument that names
the key.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec

from corten.engine import seccomp, storage
from corten.engine.security import UNCONFINED
from corten.errors import InvalidArgument
from corten.spec.units import parse_size

LEVELS: Final = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
STORAGE_DRIVER: Final = "overlay2"
_BUILT_IN: Final = ("", "builtin")


def size(key: str, value: Any) -> int:
    """`"64M"` or a number, in bytes."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise InvalidArgument(f"{key}: not a size")
    try:
        return parse_size(text, 1024)
    except ValueError as error:
        raise InvalidArgument(f"{key}: {error}") from None


def count(key: str, value: Any) -> int:
    """A number of seconds; -1 is no limit."""
    if isinstance(value, bool) or not isinstance(value, int) or value < -1:
        raise InvalidArgument(f"{key}: not a number of seconds, or -1")
    return value


def microseconds(key: str, value: Any) -> int:
    """Of real-time scheduling; the kernel says what is too much."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >> 63:
        raise InvalidArgument(f"{key}: not a number of microseconds")
    return value


def ipc_mode(key: str, value: Any) -> str:
    """Of containers without --ipc."""
    if value not in ("", "private", "shareable"):
        raise InvalidArgument(
            f'{key}: IPC mode "{value}" is not supported as default value; use "shareable" or "private"'
        )
    return str(value)


def cgroupns_mode(key: str, value: Any) -> str:
    """Of containers without --cgroupns."""
    if value not in ("", "private", "host"):
        raise InvalidArgument(f'{key}: default cgroup namespace mode ({value}) is invalid; use "host" or "private"')
    return str(value)


def log_level(key: str, value: Any) -> str:
    """What the log is for; `debug` goes before it."""
    if not isinstance(value, str) or value.lower() not in LEVELS:
        raise InvalidArgument(f"{key}: invalid logging level: {value}")
    return value.lower()


def log_format(key: str, value: Any) -> str:
    """How the log's lines look."""
    if value not in ("text", "json"):
        raise InvalidArgument(f"{key}: invalid log format: {value}")
    return str(value)


def storage_driver(key: str, value: Any) -> str:
    """There is one."""
    if value not in ("", STORAGE_DRIVER):
        raise InvalidArgument(f"{key}: driver not supported: {value}: {STORAGE_DRIVER} is the only one")
    return STORAGE_DRIVER


def paths(key: str, value: Any) -> tuple[str, ...]:
    """Absolute paths, each once."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"{key}: not a list of strings")
    for path in value:
        if not path.startswith("/"):
            raise InvalidArgument(f"{key}: {path!r} is not an absolute path")
        if value.count(path) > 1:
            raise InvalidArgument(f"{key}: {path} is named twice")
    return tuple(value)


def storage_opts(key: str, value: Any) -> tuple[str, ...]:
    """`overlay2.size=10G`: of containers that name no size."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"{key}: not a list of strings")
    try:
        storage.driver_options(value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{key}: {error.text}") from error
    return tuple(value)


def exec_opts(key: str, value: Any) -> tuple[str, ...]:
    """`native.cgroupdriver=cgroupfs`, which is the only way there is."""
    if not isinstance(value, list):
        raise InvalidArgument(f"{key}: not a list of strings")
    for option in value:
        name, _, driver = str(option).partition("=")
        if name != "native.cgroupdriver":
            raise InvalidArgument(f"{key}: unknown option {option!r}")
        if driver not in ("", "cgroupfs"):
            raise InvalidArgument(f"{key}: native.cgroupdriver option {driver} is not supported yet")
    return tuple(map(str, value))


def seccomp_text(path: str) -> str:
    """What a `seccomp-profile` stands for: "" the built-in one, "unconfined", or the text of the file."""
    if path in _BUILT_IN:
        return ""
    if path == UNCONFINED:
        return UNCONFINED
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", "") or "not UTF-8").lower()
        raise InvalidArgument(f"opening seccomp profile ({path}) failed: {reason}") from error
    seccomp.parse_profile(text)
    return text


class JsonLines(logging.Formatter):
    """`log-format: json`: dockerd's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        made = self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}"
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        fields = {"level": record.levelname.lower(), "msg": text, "time": made, "logger": record.name}
        return msgspec.json.encode(fields).decode()
