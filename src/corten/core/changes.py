"""`--change` of `docker import` and `commit`: a few Dockerfile instructions applied to a configuration.

Docker API ImageCreate, parameter `changes`.  One instruction per string; words and variables as in a Dockerfile, with
the configuration's own environment.  Texts of refusals are dockerd's (26.1).
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from posixpath import join, normpath
from typing import Any

import msgspec

from corten.core.words import expand, split
from corten.errors import InvalidArgument
from corten.spec.image import Healthcheck, RunConfig
from corten.spec.units import parse_duration_ns

SHELL = ("/bin/sh", "-c")

_Change = dict[str, Any]
_PORT_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_PROTOCOLS = ("tcp", "udp", "sctp")
_MILLISECOND_NS = 10**6
_TIMES = ("interval", "timeout", "start-period", "start-interval")


def apply_changes(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The configuration after `changes`, in order; raises InvalidArgument."""
    lines = [line for line in "\n".join(changes).split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if changes and not lines:
        raise InvalidArgument("file with no instructions")
    has_command = False  # a new entry point drops the command of before, but not one of these changes
    for line in lines:
        name, *rest = line.split(maxsplit=1)
        instruction = _INSTRUCTIONS.get(name.lower())
        if instruction is None:
            raise InvalidArgument(f"{name} is not a valid change command")
        change = instruction(config, "".join(rest).strip())
        if "entrypoint" in change and not has_command:
            change["cmd"] = None
        has_command = has_command or (bool(rest) and bool(change.get("cmd")))
        config = msgspec.structs.replace(config, **change)
    return config


def merge(own: RunConfig, other: RunConfig) -> RunConfig:
    """`own` with what it lacks from `other`, as dockerd's commit does it (moby daemon.merge)."""
    change: _Change = {
        name: getattr(own, name) or getattr(other, name)
        for name in ("user", "working_dir", "stop_signal", "healthcheck", "shell")
    }
    for name in ("exposed_ports", "volumes"):
        change[name] = {**(getattr(other, name) or {}), **(getattr(own, name) or {})} or None
    change["labels"] = {**(other.labels or {}), **(own.labels or {})}
    known = {item.partition("=")[0] for item in own.env or ()}
    more = [item for item in other.env or () if item.partition("=")[0] not in known]
    change["env"] = [*(own.env or ()), *more] or None
    if not own.entrypoint:
        if not own.cmd:
            change |= {"cmd": other.cmd, "args_escaped": other.args_escaped}
        if own.entrypoint is None:
            change["entrypoint"] = other.entrypoint
    return msgspec.structs.replace(own, **change)


def _expanded(config: RunConfig, text: str) -> str:
    return expand(text, dict(item.partition("=")[::2] for item in config.env or ()))


def _require(text: str, name: str, how_many: str = "at least one") -> None:
    if not text:
        raise InvalidArgument(f"{name} requires {how_many} argument")


def _json_words(text: str) -> list[str] | None:
    """The exec form `["a", "b"]`, what follows it left out; None when `text` is something else."""
    if not text.startswith("["):
        return None
    try:
        words, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(word, str) for word in words):
        raise InvalidArgument("when using JSON array syntax, arrays must be comprised of strings only")
    return list(words)


def _command(text: str) -> list[str]:
    words = _json_words(text)
    if words is not None:
        return words
    return [*SHELL, text] if text else [*SHELL]


def _pairs(config: RunConfig, text: str, name: str) -> dict[str, str]:
    """`key=value key2="value 2"`, or the old `key value`."""
    _require(text, name)
    words = split(text)
    if "=" in words[0]:
        pairs = [_pair(word) for word in words]
    else:
        key, *value = text.split(maxsplit=1)
        if not value:
            raise InvalidArgument(f"{name} must have two arguments")
        pairs = [(key, value[0])]
    found = {_expanded(config, key): _expanded(config, value) for key, value in pairs}
    if "" in found:
        raise InvalidArgument(f"{name} names can not be blank")
    return found


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise InvalidArgument(f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value")
    return key, value


def _cmd(_: RunConfig, text: str) -> _Change:
    return {"cmd": _command(text), "args_escaped": False}


def _entrypoint(_: RunConfig, text: str) -> _Change:
    return {"entrypoint": (_command(text) or None) if text else None}


def _env(config: RunConfig, text: str) -> _Change:
    env = list(config.env or ())
    for key, value in _pairs(config, text, "ENV").items():
        places = [number for number, item in enumerate(env) if item.partition("=")[0] == key]
        if places:
            env[places[0]] = f"{key}={value}"
        else:
            env.append(f"{key}={value}")
    return {"env": env}


def _label(config: RunConfig, text: str) -> _Change:
    return {"labels": {**(config.labels or {}), **_pairs(config, text, "LABEL")}}


def _expose(config: RunConfig, text: str) -> _Change:
    _require(text, "EXPOSE")
    ports = dict(config.exposed_ports or {})
    for word in text.split():
        ports |= _ports(_expanded(config, word))
    return {"exposed_ports": ports}


def _ports(word: str) -> dict[str, dict[str, Any]]:
    """`[[ip:]host:]container[-last][/protocol]`: the container's ports."""
    numbers, _, protocol = word.partition("/")
    container = numbers.rpartition(":")[2]
    match = _PORT_RANGE.fullmatch(container)
    if match is None or not int(match[1]) <= int(match[2] or match[1]) <= 65535:
        raise InvalidArgument(f"Invalid containerPort: {container}")
    if (protocol or "tcp").lower() not in _PROTOCOLS:
        raise InvalidArgument(f"Invalid proto: {protocol}")
    last = int(match[2] or match[1])
    return {f"{port}/{(protocol or 'tcp').lower()}": {} for port in range(int(match[1]), last + 1)}


def _volume(config: RunConfig, text: str) -> _Change:
    listed = _json_words(text)
    words = [_expanded(config, word) for word in (text.split() if listed is None else listed)]
    _require(" ".join(text.split() if listed is None else listed), "VOLUME")
    if not all(word.strip() for word in words):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    return {"volumes": {**(config.volumes or {}), **{word: {} for word in words}}}


def _workdir(config: RunConfig, text: str) -> _Change:
    _require(text, "WORKDIR", "exactly one")
    return {"working_dir": normpath(join("/", config.working_dir, _expanded(config, text)))}


def _user(config: RunConfig, text: str) -> _Change:
    _require(text, "USER", "exactly one")
    return {"user": _expanded(config, text)}


def _stop_signal(config: RunConfig, text: str) -> _Change:
    _require(text, "STOPSIGNAL", "exactly one")
    word = _expanded(config, text)
    name = "SIG" + word.upper().removeprefix("SIG")
    is_number = re.fullmatch("[0-9]{1,3}", word) is not None and 0 < int(word) <= signal.SIGRTMAX
    if not is_number and name not in signal.Signals.__members__ and not re.fullmatch(r"SIGRTM(IN|AX)[+-]\d+", name):
        raise InvalidArgument(f"invalid signal: {word}")
    return {"stop_signal": word}


def _on_build(config: RunConfig, text: str) -> _Change:
    _require(text, "ONBUILD")
    trigger = text.split(maxsplit=1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    return {"on_build": [*(config.on_build or ()), text]}


def _healthcheck(_config: RunConfig, text: str) -> _Change:
    options: dict[str, Any] = {}
    while text.startswith("--"):
        word, *rest = text.split(maxsplit=1)
        text = "".join(rest)
        options |= _health_option(word)
    _require(text, "HEALTHCHECK")
    kind, *command = text.split(maxsplit=1)
    if kind.upper() == "NONE":
        if command:
            raise InvalidArgument("HEALTHCHECK NONE takes no arguments")
        return {"healthcheck": Healthcheck(test=["NONE"])}
    if kind.upper() != "CMD":
        raise InvalidArgument(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not command:
        raise InvalidArgument("Missing command after HEALTHCHECK CMD")
    words = _json_words(command[0])
    test = ["CMD-SHELL", command[0]] if words is None else ["CMD", *words]
    return {"healthcheck": Healthcheck(test=test, **options)}


def _health_option(word: str) -> dict[str, int]:
    name, _, value = word[2:].partition("=")
    if name == "retries":
        if not re.fullmatch("[0-9]{1,9}", value):
            raise InvalidArgument(f'strconv.ParseInt: parsing "{value}": invalid syntax')
        return {"retries": int(value)}
    if name not in _TIMES:
        raise InvalidArgument(f"unknown flag: {name}")
    try:
        duration_ns = parse_duration_ns(value)
    except ValueError as error:
        raise InvalidArgument(f'time: {error} duration "{value}"') from None
    if duration_ns and duration_ns < _MILLISECOND_NS:
        raise InvalidArgument(f'Interval "{name}" cannot be less than 1ms')
    return {name.replace("-", "_"): duration_ns}


_INSTRUCTIONS: Mapping[str, Callable[[RunConfig, str], _Change]] = {
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "onbuild": _on_build,
    "stopsignal": _stop_signal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
