"""Bodies of Docker API requests: bytes to the values of `spec.docker`, as Go's encoding/json would read them.

The walk over the raw object does what the typed conversion cannot: keys in any case, null as absent, a
command given as one string, arrays of fixed length, and the list of keys that nobody knows.  Texts of
errors are dockerd's (`invalid JSON: json: cannot unmarshal string into Go struct field
CreateRequest.HostConfig.Memory of type int64`), so that they name the field in the spelling the client
used them in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from corten.errors import InvalidArgument
from corten.spec.docker import (
    ContainerConfig,
    ContainerCreateRequest,
    ContainerUpdateRequest,
    ExecConfig,
    ExecStartConfig,
    HostConfig,
    NetworkingConfig,
    VolumeCreateRequest,
)

T = TypeVar("T", bound=msgspec.Struct)
Unknown = list[str]
Walk = Callable[[Any, str, Unknown], Any]

# Go's name of the type that a body is read into, which its error texts show.
GO_NAMES: dict[type, str] = {
    ContainerCreateRequest: "CreateRequest",
    ContainerUpdateRequest: "UpdateConfig",
    ExecConfig: "ExecOptions",
    ExecStartConfig: "ExecStartOptions",
    VolumeCreateRequest: "CreateOptions",
}
# strslice.StrSlice: a string stands for a list of one.
STRING_OR_LIST = frozenset({"Cmd", "Entrypoint", "Shell", "CapAdd", "CapDrop"})
# Go's `int` and narrower; every other integer is an int64.
_GO_INTEGERS = {
    "OomScoreAdj": "int", "MaximumRetryCount": "int", "StopTimeout": "int", "Retries": "int", "Count": "int",
    "GwPriority": "int", "IPPrefixLen": "int", "GlobalIPv6PrefixLen": "int", "BlkioWeight": "uint16",
    "Weight": "uint16", "ConsoleSize": "uint", "Rate": "uint64", "IOMaximumIOps": "uint64",
    "IOMaximumBandwidth": "uint64", "Mode": "uint32", "Interval": "time.Duration", "Timeout": "time.Duration",
    "StartPeriod": "time.Duration", "StartInterval": "time.Duration",
}  # fmt: skip
_JSON_KINDS = {"str": "string", "int": "number", "float": "number"}
_MISMATCH = re.compile(r"Expected `(?P<want>[^`]+)`(?:, got `(?P<got>[^`]+)`)?.*?(?: - at `\$(?P<path>.*)`)?$")


def parse_create(body: bytes, api_version: tuple[int, int] = (1, 51)) -> ContainerCreateRequest:
    """The body of ContainerCreate.  Raises InvalidArgument with dockerd's text."""
    raw = _decode(body, ContainerCreateRequest)
    unknown: Unknown = []
    folded = {name.lower(): name for name in _fields(ContainerConfig)}
    config: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for key, value in raw.items():
        if key.lower() in ("hostconfig", "networkingconfig"):
            parts[key.lower()] = value
        elif key.lower() in folded or key in _fields(ContainerConfig):
            config[key] = value
        elif not is_zero(value):
            unknown.append(key)
    if not config:
        raise InvalidArgument("config cannot be empty in order to create a container")
    name = GO_NAMES[ContainerCreateRequest]
    networking = parts.get("networkingconfig")
    return ContainerCreateRequest(
        config=_convert(config, ContainerConfig, name, "", unknown),
        host_config=_convert(parts.get("hostconfig"), HostConfig, name, "HostConfig", unknown),
        networking_config=_convert(networking, NetworkingConfig, name, "NetworkingConfig", unknown),
        unknown=tuple(unknown),
        api_version=api_version,
    )


def parse_body(body: bytes, cls: type[T]) -> tuple[T, tuple[str, ...]]:
    """Any other body, and the dotted paths of its unknown non-zero keys.  Raises InvalidArgument."""
    unknown: Unknown = []
    value = _convert(_decode(body, cls), cls, GO_NAMES.get(cls, cls.__name__), "", unknown)
    return value, tuple(unknown)


def parse_named(body: bytes, cls: type[T]) -> T | None:
    """As `parse_body`; None for a body that names no field of `cls`, as Go leaves an embedded pointer nil."""
    names = {field.encode_name.lower() for field in msgspec.structs.fields(cls)}
    if not body or names.isdisjoint(name.lower() for name in _decode(body, cls)):
        return None
    return parse_body(body, cls)[0]


def is_zero(value: object) -> bool:
    """Whether a raw JSON value is what Go leaves out: null, false, 0, "", and collections of such."""
    todo = [value]
    while todo:  # no recursion: a stranger says how deep it is
        item = todo.pop()
        if isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, list):
            todo += item
        elif item:
            return False
    return True


def _decode(body: bytes, cls: type) -> dict[str, Any]:
    if not body.strip():
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(_syntax_text(str(error), body)) from error
    except RecursionError as error:
        raise InvalidArgument("invalid JSON: exceeded max depth") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        kind = _json_kind(raw)
        name = "container." + GO_NAMES.get(cls, cls.__name__)
        raise InvalidArgument(f"invalid JSON: json: cannot unmarshal {kind} into Go value of type {name}")
    return raw


def _syntax_text(text: str, body: bytes) -> str:
    if "trailing" in text:
        return "unexpected content after JSON"
    if "truncated" in text:
        return "invalid JSON: unexpected EOF"
    place = re.search(r"\(byte (\d+)\)", text)
    if place and int(place[1]) < len(body):
        at = int(place[1])
        return f"invalid JSON: invalid character {chr(body[at])!r} {_expected(body[:at].rstrip()[-1:])}"
    return f"invalid JSON: {text[:1].lower()}{text[1:]}"


def _expected(before: bytes) -> str:
    """What Go says it was reading, from the byte in front of the one that it did not like."""
    if before in (b"", b":", b"["):
        return "looking for beginning of value"
    if before in (b"{", b","):
        return "looking for beginning of object key string"
    return "after object key:value pair"


def _json_kind(raw: object) -> str:
    if isinstance(raw, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", list: "array", dict: "object"}[type(raw)]


def _convert(raw: Any, cls: type[T], go_name: str, prefix: str, unknown: Unknown) -> T:
    if raw is None:
        return cls()
    walked = _struct_walk(cls)(raw, prefix, unknown)
    try:
        return msgspec.convert(walked, cls)
    except msgspec.ValidationError as error:
        raise InvalidArgument(_mismatch_text(str(error), walked, go_name, prefix)) from error


def _mismatch_text(text: str, walked: Any, go_name: str, prefix: str) -> str:
    """dockerd's sentence for msgspec's "Expected `int`, got `str` - at `$.Memory`"."""
    found = _MISMATCH.match(text)
    if not found:
        return f"invalid JSON: {go_name}.{prefix}: {text}"
    path = re.sub(r"\[[^\]]*\]", "", found["path"] or "").strip(".")
    field = ".".join(part for part in (go_name, prefix, path) if part)
    last = field.rpartition(".")[2]
    want = found["want"].split(" | ")[0]
    integer = _GO_INTEGERS.get(last, "int64")
    is_strslice = last in STRING_OR_LIST and go_name != GO_NAMES[ExecConfig]
    array = "string" if is_strslice else "[]string"
    types = {"int": integer, "str": "string", "array": array, "object": _go_object(last)}
    go_type = types.get(want, want)
    got = _JSON_KINDS.get(found["got"], found["got"]) if found["got"] else "number"
    if want == "int" and got == "number":  # of the right kind, but no such integer: Go shows it
        got = f"number {msgspec.json.encode(_at(walked, found['path'] or '')).decode()}"
    return f"invalid JSON: json: cannot unmarshal {got} into Go struct field {field} of type {go_type}"


def _at(walked: Any, path: str) -> Any:
    """The value at a path of msgspec's; a map's key is `[...]` there: the first value that is no string will do."""
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        if name or index.isdigit():
            walked = walked[name or int(index)]
        else:
            walked = next((item for item in walked.values() if not isinstance(item, str)), None)
    return walked


def _go_object(name: str) -> str:
    if name in ("ExposedPorts", "Volumes"):
        return "struct {}"
    if name == "NetworkingConfig":
        return "network.NetworkingConfig"
    is_struct = name.endswith(("Config", "Policy", "Options", "Healthcheck")) and name != "Config"
    return f"container.{name}" if is_struct else "map[string]string"


# The walk: one small function per type, made once.


class _Field(NamedTuple):
    name: str
    walk: Walk | None


@functools.cache
def _fields(cls: type[msgspec.Struct]) -> dict[str, _Field]:
    """Fields by exact spelling and by lower case."""
    table: dict[str, _Field] = {}
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        name = field.encode_name
        walk = _string_or_list if name in STRING_OR_LIST and cls is not ExecConfig else _walk_of(field.type)
        table[name.lower()] = table[name] = _Field(name, walk)
    return table


@functools.cache
def _struct_walk(cls: type[msgspec.Struct]) -> Walk:
    def walk(raw: Any, path: str, unknown: Unknown) -> Any:
        if not isinstance(raw, dict):
            return raw
        fields = _fields(cls)
        out: dict[str, Any] = {}
        for key, value in raw.items():
            if value is None:
                continue
            field = fields.get(key) or fields.get(key.lower())
            if field is None:
                if not is_zero(value):
                    unknown.append(f"{path}.{key}" if path else key)
                continue
            out[field.name] = field.walk(value, f"{path}.{field.name}", unknown) if field.walk else value
        return out

    return walk


def _walk_of(kind: inspect.Type) -> Walk | None:
    match kind:
        case inspect.UnionType(types=types):
            return next((walk for walk in map(_walk_of, types) if walk), None)
        case inspect.StructType(cls=cls):
            return _struct_walk(cls)
        case inspect.ListType(item_type=item):
            return _list_walk(_walk_of(item), _zero_of(item))
        case inspect.DictType(value_type=value):
            return _dict_walk(_walk_of(value), _zero_of(value))
        case inspect.TupleType(item_types=items):
            return _array_walk(len(items))
        case _:
            return None


def _zero_of(kind: inspect.Type) -> Any:
    """What Go leaves in an element that is null."""
    match kind:
        case inspect.StrType():
            return ""
        case inspect.IntType():
            return 0
        case inspect.StructType() | inspect.DictType():
            return {}
        case inspect.ListType():
            return []
        case _:
            return None


def _list_walk(inner: Walk | None, zero: Any) -> Walk:
    def walk(raw: Any, path: str, unknown: Unknown) -> Any:
        if not isinstance(raw, list):
            return raw
        filled = [zero if item is None else item for item in raw]
        if inner is None:
            return filled
        return [inner(item, f"{path}[{index}]", unknown) for index, item in enumerate(filled)]

    return walk


def _dict_walk(inner: Walk | None, zero: Any) -> Walk:
    def walk(raw: Any, path: str, unknown: Unknown) -> Any:
        if not isinstance(raw, dict):
            return raw
        filled = {key: zero if item is None else item for key, item in raw.items()}
        if inner is None:
            return filled
        return {key: inner(item, f"{path}[{key}]", unknown) for key, item in filled.items()}

    return walk


def _array_walk(length: int) -> Walk:
    """A Go array: what is missing is zero, what is too much is dropped."""

    def walk(raw: Any, path: str, unknown: Unknown) -> Any:
        return (raw + [0] * length)[:length] if isinstance(raw, list) else raw

    return walk


def _string_or_list(raw: Any, path: str, unknown: Unknown) -> Any:
    return [raw] if isinstance(raw, str) else _strings(raw, path, unknown)


_strings = _list_walk(None, "")
