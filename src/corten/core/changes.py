"""`--change` of `docker import`: a few Dockerfile instructions applied to a configuration.

Docker API ImageCreate, parameter `changes`.  One instruction per string; words are quoted as in a Dockerfile and
`$VAR`, `${VAR}` are taken from the configuration's own environment.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from posixpath import join, normpath
from typing import Any

import msgspec

from corten.errors import InvalidArgument
from corten.spec.image import Healthcheck, RunConfig

SHELL = ("/bin/sh", "-c")

_Change = dict[str, Any]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


def apply_changes(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The configuration after `changes`, in order; raises InvalidArgument."""
    for line in changes:
        name, _, rest = line.strip().partition(" ")
        instruction = _INSTRUCTIONS.get(name.lower())
        if instruction is None:
            raise InvalidArgument(f"{name} is not a valid change command")
        if not rest.strip():
            raise InvalidArgument(f"{name.upper()} requires at least one argument")
        config = msgspec.structs.replace(config, **instruction(config, rest.strip()))
    return config


def _words(config: RunConfig, text: str) -> list[str]:
    env = dict(item.partition("=")[::2] for item in config.env or ())
    expanded = _VARIABLE.sub(lambda match: env.get(match[1] or match[2], ""), text)
    try:
        return shlex.split(expanded)
    except ValueError as error:
        raise InvalidArgument(f"{text}: {error}") from error


def _json_words(text: str) -> list[str] | None:
    """The exec form `["a", "b"]`, or None when `text` is something else."""
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text.encode(), type=list[str])
    except msgspec.DecodeError:
        return None


def _command(text: str) -> list[str]:
    words = _json_words(text)
    return [*SHELL, text] if words is None else words


def _pairs(config: RunConfig, text: str, what: str) -> dict[str, str]:
    """`key=value key2="value 2"`, or the old `key value`."""
    first = text.split(maxsplit=1)[0]
    if "=" not in first:
        key, _, value = text.partition(" ")
        if not value:
            raise InvalidArgument(f"{what} must have two arguments")
        return {key: value.strip()}
    pairs = {}
    for word in _words(config, text):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgument(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs[key] = value
    return pairs


def _cmd(_: RunConfig, text: str) -> _Change:
    return {"cmd": _command(text), "args_escaped": False}


def _entrypoint(_: RunConfig, text: str) -> _Change:
    return {"entrypoint": _command(text)}


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
    ports = dict(config.exposed_ports or {})
    for word in _words(config, text):
        match = _PORT.fullmatch(word)
        if match is None or not int(match[1]) <= int(match[2] or match[1]) <= 65535:
            raise InvalidArgument(f"invalid containerPort: {word}")
        for port in range(int(match[1]), int(match[2] or match[1]) + 1):
            ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
    return {"exposed_ports": ports}


def _volume(config: RunConfig, text: str) -> _Change:
    listed = _json_words(text)
    words = _words(config, text) if listed is None else listed
    if not all(word.strip() for word in words):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    return {"volumes": {**(config.volumes or {}), **{word: {} for word in words}}}


def _workdir(config: RunConfig, text: str) -> _Change:
    (path,) = _words(config, text) or ("",)
    return {"working_dir": normpath(join("/", config.working_dir, path))}


def _user(config: RunConfig, text: str) -> _Change:
    words = _words(config, text)
    if len(words) != 1:
        raise InvalidArgument("USER requires exactly one argument")
    return {"user": words[0]}


def _stop_signal(config: RunConfig, text: str) -> _Change:
    words = _words(config, text)
    if len(words) != 1:
        raise InvalidArgument("STOPSIGNAL requires exactly one argument")
    return {"stop_signal": words[0]}


def _on_build(config: RunConfig, text: str) -> _Change:
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
    kind, *command = text.split(maxsplit=1)
    if kind.upper() == "NONE" and not command:
        return {"healthcheck": Healthcheck(test=["NONE"])}
    if kind.upper() != "CMD" or not command:
        raise InvalidArgument(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    words = _json_words(command[0])
    test = ["CMD-SHELL", command[0]] if words is None else ["CMD", *words]
    return {"healthcheck": Healthcheck(test=test, **options)}


def _health_option(word: str) -> dict[str, int]:
    name, _, value = word[2:].partition("=")
    if name == "retries" and value.isdigit():
        return {"retries": int(value)}
    if name not in ("interval", "timeout", "start-period", "start-interval"):
        raise InvalidArgument(f"unknown flag: {word}")
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise InvalidArgument(f"time: invalid duration {value!r}")
    return {name.replace("-", "_"): int(sum(float(number) * _UNIT_NS[unit] for number, unit in parts))}


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
