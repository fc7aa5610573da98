"""Where the output of a container goes: HostConfig.LogConfig as what the shim is told at a start, and where it is read.

What the drivers refuse when they begin fails the start (500), with the texts of moby 26.1, daemon/logger.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from corten.core.shims import LogRequest
from corten.engine import logaddress, logoptions, logtag
from corten.engine.effective import Effective
from corten.engine.launcherrors import LOGGING_FAILED
from corten.engine.logformats import JSON_LINES, LENGTH_PREFIXED, Format
from corten.engine.logoptions import FILES, Options, parse_bool
from corten.engine.record import Record
from corten.engine.times import rfc3339
from corten.errors import Internal, InvalidArgument
from corten.shim import locallog, logfile
from corten.shim.courier import KEEPER
from corten.spec.units import parse_size

_BUFFER_BYTES: Final = 1_000_000
_FLUENTD_BYTES: Final = "1m"
_FAILED: Final = f"failed to create task for container: {LOGGING_FAILED}"


class LogPlace(msgspec.Struct, frozen=True):
    """Where a container's log can be read, and how."""

    path: str
    format: Format
    mend: Callable[[str], int]


def place(effective: Effective, directory: str, id: str) -> LogPlace | None:
    """None for a container whose log is not kept here: `none`, and a remote driver with `cache-disabled`."""
    driver, options = effective.host.log_config.type, effective.host.log_config.config or {}
    match driver:
        case "json-file":
            return LogPlace(f"{directory}/{id}-json.log", JSON_LINES, logfile.mend)
        case "local":
            return LogPlace(f"{directory}/local-logs/container.log", LENGTH_PREFIXED, locallog.mend)
        case "none":
            return None
    if parse_bool(options.get("cache-disabled", "")):
        return None
    return LogPlace(f"{directory}/container-cached.log", LENGTH_PREFIXED, locallog.mend)


# At start


class Identity(msgspec.Struct, frozen=True):
    """What drivers say about a container beside its configuration."""

    id: str
    name: str
    image_id: str
    image_name: str
    created_ns: int


def identity(record: Record) -> Identity:
    """Of a container's record."""
    return Identity(record.id, record.name, record.image_id, record.image_ref, record.created_ns)


def request(effective: Effective, identity: Identity, directory: str) -> LogRequest:
    """What the shim is told.  Raises Internal in Docker's words for what its drivers refuse at the start."""
    log = effective.host.log_config
    if log.type == "none":
        return LogRequest(driver="none")
    try:
        return _request(effective, identity, directory, log.type, log.config or {})
    except InvalidArgument as error:
        raise Internal(f"{_FAILED}: {error.text}") from error


def _request(effective: Effective, identity: Identity, directory: str, driver: str, options: Options) -> LogRequest:
    where = place(effective, directory, identity.id)
    if where is not None and driver == "local":
        os.makedirs(os.path.dirname(where.path), mode=0o700, exist_ok=True)
    if driver in FILES:
        assert where is not None
        rotation = logoptions.rotation if driver == "json-file" else logoptions.local_rotation
        size, files, compress = rotation(options)
        attributes = _attributes(effective, identity, options) if driver == "json-file" else {}
        kept = LogRequest(where.path, driver, size, files, compress, attributes)
        return _kept_aside(kept, _buffer(options)) if options.get("mode", "") == "non-blocking" else kept
    courier = _courier(effective, identity, driver, options)
    if where is None:
        return LogRequest(driver="none", courier=courier)
    size, files, compress = logoptions.local_rotation(options, "cache-")
    return LogRequest(where.path, "local", size, files, compress, courier=courier)


def _kept_aside(log: LogRequest, limit: int) -> LogRequest:
    """The same log, written by a courier: the container does not wait for the disk (corten.shim.filekeeper)."""
    return LogRequest(driver="none", courier={"driver": KEEPER, "limit": limit, "log": log.to_message()})


def _attributes(effective: Effective, identity: Identity, options: Options) -> dict[str, str]:
    """What stands beside each line of json-file: labels, variables, and the tag where one is asked for."""
    found = extra_attributes(effective, options)
    tag = _tag(effective, identity, options, "")
    return found | {"tag": tag} if tag else found


def extra_attributes(
    effective: Effective, options: Options, name: Callable[[str], str] = lambda key: key
) -> dict[str, str]:
    """The labels and variables that `labels`, `labels-regex`, `env` and `env-regex` mean, under the names of `name`."""
    labels = effective.config.labels or {}
    variables = dict(item.partition("=")[::2] for item in effective.config.env or () if "=" in item)
    out: dict[str, str] = {}
    for values, key in ((labels, "labels"), (variables, "env")):
        named = options.get(key, "")
        out |= {name(one): values[one] for one in named.split(",") if one in values} if named else {}
        expression = options.get(f"{key}-regex", "")
        out |= {name(one): values[one] for one in _matching(expression, values)} if expression else {}
    return out


def _matching(expression: str, values: Mapping[str, str]) -> list[str]:
    """The names in which the expression is found: Go's, in linear time."""
    import re2  # 9 ms and 2 MB that most engines never need

    options = re2.Options()
    options.max_mem, options.never_capture, options.log_errors = 1 << 20, True, False
    try:
        compiled = re2.compile(expression.encode("utf-8", "replace"), options)
    except re2.error as error:
        raise InvalidArgument(f"error parsing regexp: {_words(error)}") from error
    return [one for one in sorted(values) if compiled.search(one.encode("utf-8", "replace")) is not None]


# What RE2 says, and Go of the same.
_OF_GO: Final = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "bad repetition operator": "invalid nested repetition operator",
    "no argument for repetition operator": "missing argument to repetition operator",
    "invalid repetition size": "invalid repeat count",
}


def _words(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    what, colon, where = text.partition(": ")
    return f"{_OF_GO.get(what, what)}{f': `{where}`' if colon else ''}"


def _tag(effective: Effective, identity: Identity, options: Options, default: str) -> str:
    template = options.get("tag", "") or default
    return logtag.render(template, _fields(effective, identity, options)) if template else ""


def _fields(effective: Effective, identity: Identity, options: Options) -> dict[str, Any]:
    """dockerd's logger.Info, its methods among the fields."""
    entrypoint, *args = effective.argv
    return {
        "Config": dict(options),
        "ContainerID": identity.id,
        "ContainerName": f"/{identity.name}",
        "ContainerEntrypoint": entrypoint,
        "ContainerArgs": args,
        "ContainerImageID": identity.image_id,
        "ContainerImageName": identity.image_name,
        "ContainerCreated": rfc3339(identity.created_ns),
        "ContainerEnv": list(effective.config.env or ()),
        "ContainerLabels": dict(effective.config.labels or {}),
        "LogPath": "",
        "DaemonName": "docker",
        "ID": identity.id[:12],
        "FullID": identity.id,
        "Name": identity.name,
        "ImageID": identity.image_id[:12],
        "ImageFullID": identity.image_id,
        "ImageName": identity.image_name,
        "Command": " ".join(effective.argv),
        "ExtraAttributes": extra_attributes(effective, options),
    }


def _courier(effective: Effective, identity: Identity, driver: str, options: Options) -> dict[str, Any]:
    """What `corten.shim.delivery` is told: texts alone, everything decided."""
    fields: dict[str, Any] = {
        "driver": driver,
        "tag": _tag(effective, identity, options, logtag.DEFAULT),
        "limit": _buffer(options),
        "options": {key: value for key, value in options.items() if key.startswith(f"{driver}-")},
        "id": identity.id,
        "name": identity.name,
    }
    match driver:
        case "gelf":
            fields["attributes"] = {
                "_container_id": identity.id,
                "_container_name": identity.name,
                "_image_id": identity.image_id,
                "_image_name": identity.image_name,
                "_command": " ".join(effective.argv),
                "_tag": fields["tag"],
                "_created": rfc3339(identity.created_ns),
                **extra_attributes(effective, options, lambda key: key if key.startswith("_") else f"_{key}"),
            }
        case "journald":
            fields["attributes"] = extra_attributes(effective, options, journal_name) | {
                "IMAGE_NAME": identity.image_name
            }
        case _:
            fields["attributes"] = extra_attributes(effective, options)
    fields["address"] = _ADDRESSES[driver](options.get(f"{driver}-address", ""))
    if driver == "syslog":
        fields["facility"] = logaddress.facility(options.get("syslog-facility", ""))
    return fields


_ADDRESSES: Final[dict[str, Callable[[str], tuple[str, str, int]]]] = {
    "syslog": logaddress.syslog,
    "gelf": logaddress.gelf,
    "fluentd": logaddress.fluentd,
    "journald": lambda address: ("unixgram", logaddress.JOURNAL, 0),
}


def _buffer(options: Options) -> int:
    """Bytes that wait at most with mode=non-blocking, or fluentd-async; -1 for a container that waits instead."""
    if any(parse_bool(options.get(f"fluentd-{word}", "")) for word in ("async", "async-connect")):
        return parse_size(options.get("fluentd-buffer-limit", "") or _FLUENTD_BYTES, 1024)
    if options.get("mode", "") != "non-blocking":
        return -1
    return parse_size(options["max-buffer-size"], 1024) if "max-buffer-size" in options else _BUFFER_BYTES


def journal_name(key: str) -> str:
    """A name that journald takes: capitals, digits and underscores, none of these first."""
    return "".join(one.upper() if one.isascii() and one.isalnum() else "_" for one in key).lstrip("_")
