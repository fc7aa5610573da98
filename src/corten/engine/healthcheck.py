"""What a health check is: the client's over the image's, checked, and as the shim is told of it.  Pure.

Docker API, HealthConfig; moby daemon/health.go, daemon/container.go.  Durations are nanoseconds.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from corten.engine.signals import parse_signal
from corten.engine.times import SECOND_NS
from corten.errors import InvalidArgument
from corten.shim.health import ACTIONS
from corten.spec.docker import ContainerConfig, HealthConfig
from corten.spec.image import Healthcheck
from corten.spec.words import HEALTH_ACTION_LABEL

Json = dict[str, Any]

_MINUTE_S: Final = 60
_DEFAULTS_NS: Final = {
    "interval": 30 * SECOND_NS,
    "timeout": 30 * SECOND_NS,
    "start_period": 0,
    "start_interval": 5 * SECOND_NS,
}
_NAMES: Final = dict(zip(HealthConfig.__struct_fields__, HealthConfig.__struct_encode_fields__, strict=True))
_MINIMUM_NS: Final = 10**6
_RETRIES: Final = 3
_STOP_TIMEOUT_S: Final = 10
_SHELL: Final = ("/bin/sh", "-c")


def merged(own: HealthConfig | None, image: Healthcheck | None) -> tuple[HealthConfig | None, list[str]]:
    """Each zero value of the client's is the image's; with the names of the fields that are."""
    if image is None:
        return own, []
    given = own or HealthConfig()
    taken = {
        name: getattr(image, name)
        for name in ("test", *_DEFAULTS_NS, "retries")
        if getattr(image, name) and not getattr(given, name)
    }
    return replace(given, **taken), [_NAMES[name] for name in taken]


def check(config: ContainerConfig) -> None:
    """dockerd's checks, in its words, and the one of our label."""
    action = (config.labels or {}).get(HEALTH_ACTION_LABEL, "none")
    if action not in ACTIONS:
        raise InvalidArgument(
            f"label {HEALTH_ACTION_LABEL}: unknown action '{action}'; use one of {', '.join(ACTIONS)}"
        )
    health = config.healthcheck
    if health is None:
        return
    for name in ("interval", "timeout"):
        _check_duration(health, name)
    if health.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    for name in ("start_period", "start_interval"):
        _check_duration(health, name)


def _check_duration(health: HealthConfig, name: str) -> None:
    value = getattr(health, name)
    if value != 0 and value < _MINIMUM_NS:
        raise InvalidArgument(f"{_NAMES[name]} in Healthcheck cannot be less than {go_duration(_MINIMUM_NS)}")


def command(config: ContainerConfig) -> list[str] | None:
    """The probe's argv; None where nothing is checked (no test, NONE, or a kind that dockerd does not know)."""
    health = config.healthcheck
    match health.test if health is not None else None:
        case ["CMD", *words]:
            return words or [""]
        case ["CMD-SHELL", *words]:
            return [*(config.shell or _SHELL), *words]
        case _:
            return None


def settings(config: ContainerConfig, process: Json) -> Json:
    """The field `health` of the shim's op `create`; `process` is that of a probe."""
    health = config.healthcheck or HealthConfig()
    out: Json = {name: getattr(health, name) or default for name, default in _DEFAULTS_NS.items()}
    return out | {
        "process": process,
        "retries": health.retries if health.retries > 0 else _RETRIES,
        "action": (config.labels or {}).get(HEALTH_ACTION_LABEL, "none"),
        "stop_signal": parse_signal(config.stop_signal or "SIGTERM"),
        "stop_timeout": config.stop_timeout if config.stop_timeout is not None else _STOP_TIMEOUT_S,
    }


def output(config: ContainerConfig, entry: Json) -> str:
    """`Output` of a probe that the shim tells of: a byte that is no UTF-8 is U+FFFD, as Go's JSON has it."""
    raw = str(entry["output"])
    text = "".join("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in raw)
    if not entry.get("timed_out"):
        return text
    timeout_ns = (config.healthcheck or HealthConfig()).timeout or _DEFAULTS_NS["timeout"]
    late = f"Health check exceeded timeout ({go_duration(timeout_ns)})"
    return f"{late}: {text}" if text else late


def go_duration(value_ns: int) -> str:
    """Go's Duration.String: `1m30s`, `1.5s`, `100ms`."""
    if value_ns < SECOND_NS:
        units = ((10**6, "ms"), (10**3, "µs"), (1, "ns"))
        unit_ns, name = next(((size, name) for size, name in units if value_ns >= size), (1, "s"))
        return f"{_decimal(value_ns, unit_ns)}{name}"
    minutes, rest_ns = divmod(value_ns, _MINUTE_S * SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{front}{_decimal(rest_ns, SECOND_NS)}s"


def _decimal(value_ns: int, unit_ns: int) -> str:
    whole, rest = divmod(value_ns, unit_ns)
    fraction = f"{rest:0{len(str(unit_ns)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
