"""Values of `run`'s flags that can be judged without the engine, in the words of Docker's CLI (docker/cli, opts).

Each function takes the text of one value and returns what it means, or raises `InvalidArgument` with the reason;
`corten.cli.flags.Value` puts the flag's name and the value in front.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from corten import errors
from corten.cli.flags import go_integer
from corten.cli.units import parse_bytes, parse_duration_ns, parse_swap
from corten.spec.address import is_address

_ULIMITS = frozenset(
    {
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
        "rttime", "sigpending", "stack",
    }
)  # fmt: skip
_SYSCTLS = frozenset(
    {
        "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
        "kernel.shmmni", "kernel.shm_rmid_forced",
    }
)  # fmt: skip
_RATIONAL = re.compile(r"[+-]?[0-9]{1,99}(/[0-9]{1,99}|(\.[0-9]{0,99})?([eE][+-]?[0-9]{1,2})?)|[+-]?\.[0-9]{1,99}")
_DOMAIN = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*\.?\s*")


def environment_variable(text: str) -> str:
    """`NAME=value`, or `NAME` for the caller's own."""
    if not text.partition("=")[0]:
        raise errors.InvalidArgument(f"invalid environment variable: {text}")
    return text


def label(text: str) -> str:
    """`name=value` or `name`."""
    name = text.partition("=")[0].lstrip()
    if not name:
        raise errors.InvalidArgument(f"invalid label '{text}': empty name")
    if re.search(r"\s", name):
        raise errors.InvalidArgument(f"label '{name}' contains whitespaces")
    return text


def stream(text: str) -> str:
    """One of the three streams, in small letters."""
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise errors.InvalidArgument("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def cpus(text: str) -> int:
    """A number of CPUs in billionths."""
    try:
        nano = Fraction(text if _RATIONAL.fullmatch(text) else "") * 10**9
    except (ValueError, ZeroDivisionError):
        raise errors.InvalidArgument(f"failed to parse {text} as a rational number") from None
    if nano.denominator != 1:
        raise errors.InvalidArgument("value is too precise")
    return min(int(nano), (1 << 63) - 1)  # the engine says how many there are


def ulimit(text: str) -> dict[str, Any]:
    """`name=soft[:hard]` as the API wants it."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise errors.InvalidArgument(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise errors.InvalidArgument(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise errors.InvalidArgument(
            f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        )
    soft, hard = go_integer(parts[0], base=10), go_integer(parts[-1], base=10)
    if len(parts) == 2 and hard != -1 and (soft == -1 or soft > hard):
        shown = f"soft: -1 (unlimited), hard: {hard}" if soft == -1 else f"{soft} > {hard}"
        raise errors.InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {shown}")
    return {"Name": name, "Soft": soft, "Hard": hard}


def sysctl(text: str) -> str:
    """`name=value` with a name that has a namespace of its own."""
    name, equals, _ = text.partition("=")
    if not equals or not (name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise errors.InvalidArgument(f"sysctl '{text}' is not allowed")
    return text


def device_rule(text: str) -> str:
    """`type major:minor access`."""
    if not re.fullmatch(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", text):
        raise errors.InvalidArgument(f"invalid device cgroup format '{text}'")
    return text


def extra_host(text: str) -> str:
    """`name:address` or `name=address`, also with brackets, as `name:address`, which is all that the engine knows."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not name or ":" in name:
        raise errors.InvalidArgument(f'bad format for add-host: "{text}"')
    if len(address) > 2 and address[0] == "[" and address[-1] == "]":
        address = address[1:-1]
    if address != "host-gateway" and not is_address(address):
        raise errors.InvalidArgument(f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def address(text: str) -> str:
    """An IPv4 or IPv6 address."""
    if not is_address(text):
        raise errors.InvalidArgument(f"IP address is not correctly formatted: {text}")
    return text


def search_domain(text: str) -> str:
    """A domain, or `.` for none."""
    if text.strip() == ".":
        return text
    if not re.search("[a-zA-Z]", text) or len(text) > 255 or not _DOMAIN.fullmatch(text):
        raise errors.InvalidArgument(f"{text} is not a valid domain")
    return text


def device_weight(text: str) -> dict[str, Any]:
    """`/dev/x:weight`."""
    path, weight = _device_and(text)
    if not _is_number(weight) or not (int(weight) == 0 or 10 <= int(weight) <= 1000):
        raise errors.InvalidArgument(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


def device_bytes(text: str) -> dict[str, Any]:
    """`/dev/x:bytes` per second."""
    path, rate = _device_and(text)
    try:
        value = parse_bytes(rate)
    except errors.InvalidArgument:
        value = -1
    if value < 0:
        raise errors.InvalidArgument(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    return {"Path": path, "Rate": value}


def device_operations(text: str) -> dict[str, Any]:
    """`/dev/x:operations` per second."""
    path, rate = _device_and(text)
    if not _is_number(rate):
        raise errors.InvalidArgument(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(rate)}


def _device_and(text: str) -> tuple[str, str]:
    path, colon, rest = text.partition(":")
    if not colon:
        raise errors.InvalidArgument(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise errors.InvalidArgument(f"bad format for device path: {text}")
    return path, rest


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def gpus(text: str) -> str:
    """`all`, a number, or `key=value` pairs."""
    if not text:
        raise errors.InvalidArgument("EOF")
    if text.startswith("="):
        raise errors.InvalidArgument(f"unexpected key '' in '{text}'")
    if re.fullmatch(r"[+-]?\d{20,}", text):
        why = "value out of range"
        raise errors.InvalidArgument(f'invalid count ({text}): value must be either "all" or an integer: {why}')
    if "=" not in text and text != "all" and not re.fullmatch(r"[+-]?\d+", text):
        raise errors.InvalidArgument(
            f'invalid count ({text}): value must be either "all" or an integer: invalid syntax'
        )
    return text


def link(text: str) -> str:
    """`container[:alias]`."""
    if not text:
        raise errors.InvalidArgument("empty string specified for links")
    if text.count(":") > 1:
        raise errors.InvalidArgument(f"bad format for links: {text}")
    return text


# kind of a flag in the table of `corten.cli.options` → its check
CHECKS: dict[str, Callable[[str], object]] = {
    "size": parse_bytes,
    "swap": parse_swap,
    "duration": parse_duration_ns,
    "cpus": cpus,
    "gpus": gpus,
    "links": link,
    "environment": environment_variable,
    "labels": label,
    "streams": stream,
    "ulimits": ulimit,
    "sysctls": sysctl,
    "device rules": device_rule,
    "hosts": extra_host,
    "addresses": address,
    "domains": search_domain,
    "device weights": device_weight,
    "device bytes": device_bytes,
    "device operations": device_operations,
}
LISTS = frozenset(CHECKS) - {"size", "swap", "duration", "cpus", "gpus"}
