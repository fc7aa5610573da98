"""`corten run --explain`: the effective configuration with the origin of each value, and the launch plan.

The engine tells what the request said from what the image, daemon.json and its own defaults say.  What of the request
was said by the user is known here alone: a client sends also what nobody asked for (`AttachStdout`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from corten.cli.options import HOST_FIELDS, HOST_LISTS
from corten.cli.table import align, ellipsis

_VALUE_WIDTH: Final = 60
_FLAG, _BUILT_IN = "flag", "built-in"

# The fields that a flag sets, by its parameter's name.  A field stands for those below it.
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: (f"HostConfig.{field}",) for field, name, _ in (*HOST_FIELDS, *HOST_LISTS)},
    "annotation": ("HostConfig.Annotations",),
    "attach": ("Config.AttachStdin", "Config.AttachStdout", "Config.AttachStderr"),
    "cpus": ("HostConfig.NanoCpus",),
    "device": ("HostConfig.Devices",),
    "domainname": ("Config.Domainname",),
    "entrypoint": ("Config.Entrypoint",),
    "env": ("Config.Env",),
    "env_file": ("Config.Env",),
    "expose": ("Config.ExposedPorts",),
    "gpus": ("HostConfig.DeviceRequests",),
    "health_on_failure": ("Config.Labels",),
    "hostname": ("Config.Hostname",),
    "interactive": ("Config.AttachStdin", "Config.OpenStdin", "Config.StdinOnce"),
    "ip": ("EndpointsConfig",),
    "ip6": ("EndpointsConfig",),
    "label": ("Config.Labels",),
    "label_file": ("Config.Labels",),
    "link_local_ip": ("EndpointsConfig",),
    "log_driver": ("HostConfig.LogConfig.Type",),
    "log_opt": ("HostConfig.LogConfig.Config",),
    "mac_address": ("EndpointsConfig",),
    "network": ("HostConfig.NetworkMode", "EndpointsConfig"),
    "network_alias": ("EndpointsConfig",),
    "publish": ("Config.ExposedPorts", "HostConfig.PortBindings"),
    "restart": ("HostConfig.RestartPolicy",),
    "security_opt": ("HostConfig.SecurityOpt",),
    "stop_signal": ("Config.StopSignal",),
    "stop_timeout": ("Config.StopTimeout",),
    "storage_opt": ("HostConfig.StorageOpt",),
    "sysctl": ("HostConfig.Sysctls",),
    "tmpfs": ("HostConfig.Tmpfs",),
    "tty": ("Config.Tty",),
    "use_api_socket": ("HostConfig.Mounts",),
    "user": ("Config.User",),
    "workdir": ("Config.WorkingDir",),
    **dict.fromkeys(
        (
            *("no_healthcheck", "health_cmd", "health_interval", "health_retries"),
            *("health_start_interval", "health_start_period", "health_timeout"),
        ),
        ("Config.Healthcheck",),
    ),
}
_OPERANDS: Final = ("Config.Image", "Config.Cmd")


def print_explanation(answer: Mapping[str, Any], flags: Iterable[str]) -> None:
    """Prints what `POST /corten/explain` answered; `flags`: the parameters that were given."""
    given = [field for name in flags for field in FIELDS.get(name, ())]
    cells = [["FIELD", "ORIGIN", "VALUE"]]
    for row in answer["effective"]:
        origin = _origin(row["field"], row["origin"], given)
        if "asked" in row:
            asked = _origin(row["field"], row["asked"]["origin"], given)
            origin = f"{origin} (asked: {ellipsis(_text(row['asked']['value']), _VALUE_WIDTH)}, {asked})"
        cells.append([row["field"], origin, ellipsis(_text(row["value"]), _VALUE_WIDTH)])
    align(cells)
    print("\nPLAN")
    for index, line in enumerate(answer["plan"]):
        print(f"{index:>3}  {line}")


def _origin(field: str, origin: str, given: Iterable[str]) -> str:
    """The engine's word, but for what the request said and no flag did."""
    first, *rest = origin.split(", ")
    if first != _FLAG or any(f"{field}.".startswith(f"{one}.") for one in given):
        return origin
    return ", ".join(["argument" if field in _OPERANDS else _BUILT_IN, *rest])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
