"""Where the filter stands, and what a plan does with its listener, when an agent answers system calls."""

from __future__ import annotations

from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch.compile import compile_exec, compile_init
from corten.launch.context import CALLS, NEW_LISTENER, SHIM, ExecContext, InitContext
from corten.launch.execops import Exec, Hook, Seccomp
from corten.launch.facts import HostFacts
from corten.launch.ops import CloneLegacy, Close, Op, SendFd, Wait
from corten.launch.userops import ParentDeathSignal, SetCaps
from corten.spec.process import parse_process
from corten.spec.runtime import parse_config

FACTS = HostFacts((6, 18), "v2", {}, "/sys/fs/cgroup", procfs_pidns=True)
ALL = (1 << len(CALLS)) - 1
HOOK = {"startContainer": [{"path": "/bin/h"}]}


def document(*, pid: str = "", **more: Any) -> dict[str, Any]:
    namespaces = [{"type": "mount"}, {"type": "pid", "path": pid} if pid else {"type": "pid"}]
    process = {"args": ["sh"], "cwd": "/"}
    linux = {"namespaces": namespaces}
    return {"ociVersion": "1.2.0", "process": process, "root": {"path": "r"}, "linux": linux, **more}


def init(calls: int = ALL, **more: Any) -> tuple[Op, ...]:
    context = InitContext(
        "c1",
        "/bundle",
        cgroup_paths={},
        rootfs="/bundle/r",
        parent=SHIM,
        seccomp=bytes(8),
        seccomp_flags=NEW_LISTENER,
        seccomp_calls=calls,
    )
    return compile_init(parse_config(document(**more)), FACTS, context).ops


def exec_ops(calls: int = ALL, **process: Any) -> tuple[Op, ...]:
    context = ExecContext(
        "c1", cgroup_paths={}, parent=SHIM, seccomp=bytes(8), seccomp_flags=NEW_LISTENER, seccomp_calls=calls
    )
    asked = parse_process({"args": ["id"], "cwd": "/", **process})
    return compile_exec(parse_config(document()), asked, FACTS, context).ops


def without(*names: str) -> int:
    return ALL & ~sum(1 << CALLS.index(name) for name in names)


def after_filter(ops: tuple[Op, ...]) -> list[type[Op]]:
    (at,) = [i for i, op in enumerate(ops) if isinstance(op, Seccomp)]
    return [type(op) for op in ops[at:]]


def test_an_init_waits_for_its_agent_before_it_waits_for_its_start() -> None:
    ops = init()
    assert after_filter(ops) == [Seccomp, SendFd, Wait, Close, Wait, Close, Exec]
    assert [op.slot for op in ops if isinstance(op, Wait)] == ["listener", "start"]
    assert [type(op) for op in ops].index(ParentDeathSignal) < [type(op) for op in ops].index(Seccomp)


def test_hooks_of_the_container_run_under_the_filter_as_in_runc() -> None:
    assert after_filter(init(hooks=HOOK)) == [Seccomp, SendFd, Wait, Close, Wait, Close, Hook, Exec]


@pytest.mark.parametrize("pid", ["", "/proc/7/ns/pid"])
def test_what_a_container_sees_holds_no_listener(pid: str) -> None:
    ops = init(pid=pid) if pid else exec_ops()
    kinds = after_filter(ops)
    assert kinds[:5] == [Seccomp, SendFd, Close, SetCaps, CloneLegacy]
    (sent,) = [i for i, op in enumerate(ops) if isinstance(op, Close) and "listener" in op.slots]
    assert sent < [type(op) for op in ops].index(CloneLegacy)


def test_an_agent_may_answer_what_an_init_calls_when_it_has_the_listener() -> None:
    assert after_filter(init(without("close", "read", "execve", "rt_sigaction", "clone", "ioctl")))


@pytest.mark.parametrize("name", ["write", "clock_gettime", "sendmsg"])
def test_calls_before_an_agent_can_answer_have_to_be_allowed(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"these calls have to be allowed: {name}$"):
        init(without(name))


def test_calls_of_a_visible_process_have_to_be_allowed() -> None:
    with pytest.raises(InvalidArgument, match=r"these calls have to be allowed: clone, execve$"):
        exec_ops(without("clone", "execve", "ioctl"))
    with pytest.raises(InvalidArgument, match=r"these calls have to be allowed: ioctl$"):
        exec_ops(without("ioctl"), terminal=True)
    with pytest.raises(InvalidArgument, match="a scheduler that a fork does not keep"):
        exec_ops(scheduler={"policy": "SCHED_DEADLINE"})
