"""The words of policy files (docs/policies.md): what a function is given, how it is marked, how it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

MARK: Final = "__corten_policy__"

Function = TypeVar("Function", bound=Callable[..., Any])


class Refused(Exception):
    """Raised by a policy: the container is not created, or not updated, and the client reads the reason."""


@dataclass(frozen=True, slots=True)
class Container:
    """What a client wants to have: a copy, so changing it changes nothing.

    verb: "create" or "update"; config, host: `Config` and `HostConfig` as inspect has them, where a list or map that
    nobody gave is None; origins: `HostConfig.Memory` → "flag", "image", "daemon.json", "built-in", "update" or a
    policy before; client: who asks, as the verdict's `Sender` ({"By", "Pid", "Uid", …}); memory: the machine's, bytes.
    """

    verb: str
    name: str
    image: str
    image_id: str
    config: Mapping[str, Any]
    host: Mapping[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)
    client: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 0
    cpus: int = 0

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels, those of the image among them."""
        return self.config.get("Labels") or {}

    def origin(self, key: str) -> str:
        """Where `Memory`, say, is from; "" for a value that nobody gave."""
        return self.origins.get(f"HostConfig.{key}") or self.origins.get(f"Config.{key}", "")


def create(function: Function) -> Function:
    """Marks a function of a `Container` as a policy: it returns what it sets, or None, or raises Refused."""
    setattr(function, MARK, True)
    return function
