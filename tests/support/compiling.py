"""Plans from configurations that tests write: for tests of the compiler."""

from __future__ import annotations

from typing import Any

from corten.launch.compile import compile_exec, compile_init
from corten.launch.context import CALLS, ExecContext, InitContext
from corten.launch.facts import HostFacts
from corten.launch.ops import Op
from corten.spec.process import parse_process
from corten.spec.runtime import parse_config

ALL_CALLS = (1 << len(CALLS)) - 1
FACTS = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup", cap_bounding=(1 << 41) - 1)


def config(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"], "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": name} for name in ("mount", "pid", "uts", "ipc", "network", "cgroup")]},
    }
    for key, value in changes.items():
        section = document.setdefault(key, {})
        if isinstance(section, dict) and isinstance(value, dict):
            section.update(value)
        else:
            document[key] = value
    return document


def ops(document: dict[str, Any], facts: HostFacts = FACTS, **context: Any) -> tuple[Op, ...]:
    given = InitContext("c1", "/bundle", cgroup_paths={}, **{"rootfs": "/srv/root", **context})
    return compile_init(parse_config(document), facts, given).ops


def exec_ops(
    document: dict[str, Any], process: dict[str, Any], facts: HostFacts = FACTS, **context: Any
) -> tuple[Op, ...]:
    given = ExecContext("c1", cgroup_paths={}, **context)
    return compile_exec(parse_config(document), parse_process(process), facts, given).ops


def of_type(kind: type[Op], found: tuple[Op, ...]) -> list[Any]:
    return [op for op in found if type(op) is kind]
