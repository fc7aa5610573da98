"""Keys of daemon.json by which dockerd is told of itself: its features, what it had once, what Corten has none of.

What dockerd 28 ignores is taken here too, and `warnings` says so; what it refuses is refused in its words.  ABSENT are
keys of parts of dockerd that Corten does not have, and the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from corten.engine.info import API_VERSION, MIN_API_VERSION
from corten.engine.settings import Settings
from corten.errors import InvalidArgument
from corten.spec.words import BOOLEANS

_NO_CONTAINERD: Final = "there is no containerd below Corten"
_NO_SWARM: Final = "Corten has no swarm"
ABSENT: Final = {
    "containerd": _NO_CONTAINERD,
    "containerd-namespace": _NO_CONTAINERD,
    "containerd-plugins-namespace": _NO_CONTAINERD,
    "cri-containerd": _NO_CONTAINERD,
    "network-control-plane-mtu": _NO_SWARM,
    "network-diagnostic-port": _NO_SWARM,
    "node-generic-resources": _NO_SWARM,
    "rootless": "cortend runs as root",
    "swarm-default-advertise-addr": _NO_SWARM,
    "userland-proxy-path": "ports are published without a proxy program",
}
CORS_REMOVED: Final = (
    'DEPRECATED: The "api-cors-header" config parameter and the dockerd "--api-cors-header" option have been removed; '
    "use a reverse proxy if you need CORS headers"
)
MIN_API_VARIABLE: Final = "DOCKER_MIN_API_VERSION"
# of dockerd's features: what has an effect here, and what would change it into another engine
CDI: Final = "cdi"
_EFFECTIVE: Final = frozenset({CDI})
_ELSEWHERE: Final = "windows-dns-proxy"
_SELINUX: Final = "/sys/fs/selinux/enforce"


def anything(key: str, value: Any) -> None:
    """A key that dockerd reads over, whatever its value."""


def cors_header(key: str, value: Any) -> None:
    """Raises InvalidArgument with dockerd's text unless it is empty."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{key}: not a string")
    if value:
        raise InvalidArgument(CORS_REMOVED)


def features(key: str, value: Any) -> dict[str, bool]:
    """`{"cdi": false}`; names that nobody knows are taken, as by dockerd."""
    if not isinstance(value, dict) or not all(isinstance(one, bool) for one in value.values()):
        raise InvalidArgument(f"{key}: not an object with true or false")
    if _ELSEWHERE in value:
        raise InvalidArgument(f"feature option '{_ELSEWHERE}' is only available on Windows")
    return dict(value)


def features_of_flag(texts: Sequence[str]) -> dict[str, bool]:
    """`--feature name` and `--feature name=bool`."""
    out = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and value not in BOOLEANS:
            raise InvalidArgument(f'strconv.ParseBool: parsing "{value}": invalid syntax')
        out[name] = BOOLEANS[value] if equals else True
    return out


def min_api_version(key: str, value: Any) -> str:
    """Of requests that are served: 1.40 to 1.51."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{key}: not a string")
    return _version(key, value)


def _version(key: str, text: str) -> str:
    if not text:
        raise InvalidArgument(f"{key}: value is empty")
    if text[0] in "vV":
        raise InvalidArgument(f'{key}: API version must be provided without "v" prefix')
    if not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", text):
        raise InvalidArgument(f"{key}: {text!r} is not an API version")
    if _number(text) < _number(MIN_API_VERSION):
        raise InvalidArgument(f"{key}: minimum supported API version is {MIN_API_VERSION}: {text}")
    if _number(text) > _number(API_VERSION):
        raise InvalidArgument(f"{key}: maximum supported API version is {API_VERSION}: {text}")
    return text


def _number(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def min_api_version_of(environment: Mapping[str, str] = os.environ) -> str:
    """What cortend's environment says; "" where it is silent.  Raises InvalidArgument that names the variable."""
    return _version(f"invalid {MIN_API_VARIABLE}", given) if (given := environment.get(MIN_API_VARIABLE)) else ""


def check_selinux(made: Settings) -> None:
    """Raises InvalidArgument where the host has SELinux: containers would run without the labels that are wanted."""
    if made.selinux_enabled and os.path.exists(_SELINUX):
        raise InvalidArgument("labels of containers are not supported: cortend would run them without any")


def warnings(made: Settings) -> list[str]:
    """What is said at the start of settings that have no effect."""
    out = []
    if made.selinux_enabled:
        out.append("Docker could not enable SELinux on the host system")
    if made.allow_nondistributable_artifacts:
        out.append("allow-nondistributable-artifacts has no effect: what an image has is pushed")
    unknown = sorted(name for name in made.features if name not in _EFFECTIVE)
    if unknown:
        out.append(f"features: no effect: {', '.join(unknown)}")
    return out
