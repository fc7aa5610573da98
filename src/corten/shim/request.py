"""A request as a shim reads it: typed fields and the descriptors that came with it."""

from __future__ import annotations

import binascii
from typing import TypeVar

from corten.errors import InvalidArgument
from corten.shim.client import AttachOptions
from corten.shim.detach import parse_keys
from corten.shim.protocol import Message, close_all

_T = TypeVar("_T")


class Request:
    """Owns its descriptors until they are taken; `close` closes the rest."""

    __slots__ = ("answer_fds", "fds", "message", "op", "seq")

    def __init__(self, message: Message, fds: list[int]) -> None:
        self.message = message
        self.fds = fds
        self.answer_fds: tuple[int, ...] = ()  # go out with the answer and stay the handler's
        self.op = self.string("op")
        self.seq = message.get("seq")

    def close(self) -> None:
        close_all(self.fds)
        self.fds = []

    def take_fd(self) -> int:
        """The next descriptor, in the order sent.  Raises InvalidArgument when there is none."""
        if not self.fds:
            raise InvalidArgument(f"{self.op}: a descriptor is missing")
        return self.fds.pop(0)

    def string(self, key: str, default: str = "") -> str:
        return self._get(key, str, default)

    def boolean(self, key: str, default: bool = False) -> bool:
        return self._get(key, bool, default)

    def integer(self, key: str, default: int = 0) -> int:
        return self._get(key, int, default)

    def object(self, key: str) -> Message:
        return self._get(key, dict, {})

    def strings(self, key: str) -> list[str]:
        values = self._get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise InvalidArgument(f"{key}: not a list of strings")
        return values

    def objects(self, key: str) -> list[Message]:
        values = self._get(key, list, [])
        if not all(isinstance(value, dict) for value in values):
            raise InvalidArgument(f"{key}: not a list of objects")
        return values

    def nested(self, key: str) -> Request:
        """An object of the request, read with the same accessors; it has no descriptors."""
        return Request({"op": key, **self.object(key)}, [])

    def size(self, key: str) -> tuple[int, int] | None:
        """(rows, columns) of a terminal, None when absent or 0."""
        values = self._get(key, list, [])
        if not values:
            return None
        if len(values) != 2 or not all(isinstance(value, int) and 0 <= value < 65536 for value in values):
            raise InvalidArgument(f"{key}: not a pair of rows and columns")
        rows, cols = values
        return (rows, cols) if rows and cols else None

    def target(self, key: str) -> tuple[str, int]:
        """[address, port] of a socket to connect to."""
        values = self._get(key, list, [])
        if len(values) != 2 or not isinstance(values[0], str) or type(values[1]) is not int:
            raise InvalidArgument(f"{key}: not a pair of address and port")
        return values[0], values[1]

    def _get(self, key: str, kind: type[_T], default: _T) -> _T:
        value = self.message.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidArgument(f"{key}: not {_NAMES[kind]}")
        return value


_NAMES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    dict: "an object",
    list: "a list",
}


def attach_options(request: Request, *, tty: bool) -> AttachOptions:
    """The attach fields of a request.  Detach keys count on a terminal alone."""
    try:
        initial = binascii.a2b_base64(request.string("initial_stdin"))
    except binascii.Error as error:
        raise InvalidArgument(f"initial_stdin: not base64: {error}") from error
    keys = parse_keys(request.string("detach_keys"))
    return AttachOptions(
        stdin=request.boolean("stdin"),
        stdout=request.boolean("stdout"),
        stderr=request.boolean("stderr"),
        multiplexed=request.boolean("multiplexed"),
        stdin_once=request.boolean("stdin_once"),
        detach_keys=keys if tty else b"",
        initial_stdin=initial,
    )
