"""Typed access to the object that a JSON parser made, with errors that name the field.

Used where msgspec is too heavy: on the runtime's cold path (design.md §7).
"""

from __future__ import annotations

from corten.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF


class Value:
    """Base of plain values with `__slots__`: equality and printing by field."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def replaced(self, **fields: object) -> Self:
        """The same value with other fields."""
        made = object.__new__(type(self))
        for name in self.__slots__:
            setattr(made, name, fields.get(name, getattr(self, name)))
        return made

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Reader:
    """One JSON object and its place in the document.  Every method raises `InvalidArgument` naming the field."""

    __slots__ = ("obj", "where")

    def __init__(self, obj: dict[str, object], where: str) -> None:
        self.obj = obj
        self.where = where

    @classmethod
    def of(cls, obj: object, where: str) -> Reader:
        """A reader of `obj`, which must be an object."""
        if not isinstance(obj, dict):
            raise InvalidArgument(f"{where}: expected an object")
        return cls(obj, where)

    def child(self, name: str) -> Reader | None:
        """The object at `name`; None when absent or null."""
        value = self.obj.get(name)
        return None if value is None else Reader.of(value, f"{self.where}.{name}")

    def children(self, name: str) -> list[Reader]:
        """The array of objects at `name`; empty when absent or null."""
        return [Reader.of(item, f"{self.where}.{name}[{i}]") for i, item in enumerate(self._array(name))]

    def string(self, name: str, *, required: bool = False) -> str:
        """The text at `name`, without NUL bytes; empty when absent and not required."""
        value = self.obj.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value):
            raise InvalidArgument(f"{self.where}.{name}: expected a string")
        _check(value, f"{self.where}.{name}")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """The array of texts at `name`; empty when absent or null."""
        items = self._array(name)
        for item in items:
            if not isinstance(item, str):
                raise InvalidArgument(f"{self.where}.{name}: expected strings")
            _check(item, f"{self.where}.{name}")
        return tuple(items)  # type: ignore[arg-type]  # checked above, without a second list

    def string_map(self, name: str) -> dict[str, str]:
        """The object of texts at `name`; empty when absent or null."""
        child = self.child(name)
        return {key: child.string(key) for key in child.names()} if child is not None else {}

    def names(self) -> tuple[str, ...]:
        """The names of its members, without NUL bytes."""
        for name in self.obj:
            _check(name, self.where)
        return tuple(self.obj)

    def boolean(self, name: str) -> bool:
        """The truth value at `name`; False when absent or null."""
        value = self.obj.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise InvalidArgument(f"{self.where}.{name}: expected true or false")
        return value

    def optional_boolean(self, name: str) -> bool | None:
        """The truth value at `name`; None when absent or null."""
        return None if self.obj.get(name) is None else self.boolean(name)

    def integer(self, name: str, *, low: int = 0, high: int = 0x7FFFFFFFFFFFFFFF) -> int:
        """The whole number at `name`, within bounds; 0 when absent or null."""
        value = self.optional_integer(name, low=low, high=high)
        return 0 if value is None else value

    def optional_integer(self, name: str, *, low: int = 0, high: int = 0x7FFFFFFFFFFFFFFF) -> int | None:
        """The whole number at `name`, within bounds; None when absent or null."""
        value = self.obj.get(name)
        return None if value is None else self._number(value, name, low, high)

    def integers(self, name: str, *, low: int = 0, high: int = 0x7FFFFFFFFFFFFFFF) -> tuple[int, ...]:
        """The array of whole numbers at `name`; empty when absent or null."""
        return tuple(self._number(item, name, low, high) for item in self._array(name))

    def _array(self, name: str) -> list[object]:
        value = self.obj.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidArgument(f"{self.where}.{name}: expected an array")
        return value

    def _number(self, value: object, name: str, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidArgument(f"{self.where}.{name}: expected a whole number")
        if not low <= value <= high:
            raise InvalidArgument(f"{self.where}.{name}: {value} is out of range ({low} to {high})")
        return value


def _check(text: str, where: str) -> None:
    if "\0" in text:
        raise InvalidArgument(f"{where}: contains a NUL byte")
    if not text.isascii():
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise InvalidArgument(f"{where}: contains half of a surrogate pair") from None
