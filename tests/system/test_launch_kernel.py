"""The same plans on Debian 12's kernel: 6.1, cgroup v2 alone, AppArmor active.

Plans are compiled and encoded here, with facts of that kernel, and executed there by the same launcher.  One boot
executes them all; each test looks at the lines of one.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from corten.launch import bpf
from corten.launch.compile import compile_exec, compile_init
from corten.launch.context import ExecContext, InitContext
from corten.launch.encode import encode
from corten.launch.execops import Stop
from corten.launch.facts import HostFacts
from corten.launch.ops import Clone, CloneLauncher, Plan, SetDumpable
from corten.launch.seccomp_compile import compile_profile
from corten.launch.spawn import RECORD, launcher_path
from corten.spec.process import parse_process
from corten.spec.runtime import parse_config
from support import guest, paths
from support.launching import DEFAULT_CAPS, default_config

pytestmark = pytest.mark.timeout(360)  # of the first test, which waits for the machine: it has 300 s
FACTS = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup", apparmor=True)
CGROUP = "/sys/fs/cgroup/c1"
MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
DENY_REBOOT: dict[str, object] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}],
}
EAGAIN = 11

# what every container and exec says of itself, a line each
LOOK = """\
echo uid $(id -u)
echo map $(cat /proc/self/uid_map)
echo cgroup $(cat /proc/self/cgroup)
echo profile $(cat /proc/self/attr/current)
echo score $(cat /proc/self/oom_score_adj)
echo caps $(grep -E 'Cap(Prm|Bnd)' /proc/self/status)
echo filter $(grep -E 'Seccomp:' /proc/self/status)
echo fds $(ls /proc/self/fd)
echo port $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)
echo masked $(wc -c < /proc/keys) $(ls /sys/firmware | wc -l)
echo sees $(cat /sys/fs/cgroup/pids.max)
echo x > /dev/null && echo null writable
echo 1 > /proc/sys/kernel/panic || echo sysctl refused
for name in mnt pid net cgroup; do echo ns-$name $(readlink /proc/self/ns/$name); done
echo left $(ls /tmp)
"""
# a hook finds the root at its path, and what it mounts there stays; one of the container's own side runs filtered
MOUNT = "mount -t tmpfs hookfs /root-fs/tmp; touch tmp/$(ls /root-fs/dev/null | wc -l); [ $(umask) = 0022 ]"
FILTERED = "grep Seccomp: /proc/self/status > /tmp/filtered"
HOOKS = {
    kind: [{"path": "/bin/sh", "args": ["sh", "-ec", script], "env": ["PATH=/bin"]}]
    for kind, script in (("createContainer", MOUNT), ("startContainer", FILTERED))
}

# spawns a plan as a shim does; pfd puts a pidfd on descriptor 5
SCRIPT = """\
cd /work; cp corten-launch pfd /bin
mkdir {cgroup}; echo +pids > /sys/fs/cgroup/cgroup.subtree_control
for name in bin etc proc sys dev tmp; do mkdir -p /root-fs/$name; done
cp /bin/busybox /root-fs/bin
for name in sh cat ls grep id readlink wc sleep; do ln -s busybox /root-fs/bin/$name; done
chmod 755 / /root-fs
go() {{
    echo "= $1"
    # cat ends when the last process that writes has ended
    $2 corten-launch 3 3</work/$3 4>/tmp/trace </dev/null 2>/dev/null | cat
    echo "trace $(od -An -v -tx1 /tmp/trace | tr -d ' \\n')"
}}
# who owns /proc/PID of a child that stops right after the clone, where fs.suid_dumpable lets a change of ids show
stopped() {{
    echo 1 > /proc/sys/fs/suid_dumpable
    pfd $first corten-launch 3 3</work/$1 4>/dev/null </dev/null >/dev/null 2>&1 &
    until grep -q "State:.*stopped" /proc/$(inside | tail -n 1)/status; do sleep 0.1; done
    child=$(inside | tail -n 1)
    echo "= $1"; echo owner $(stat -c %u /proc/$child/status) uid $(grep Uid: /proc/$child/status)
    kill -9 $child; echo 0 > /proc/sys/fs/suid_dumpable
    until [ "$(inside | wc -l)" = 1 ]; do sleep 0.1; done
}}
inside() {{ cat {cgroup}/cgroup.procs; }}
begin() {{
    corten-launch 3 3</work/$1 4>/dev/null </dev/null
    until readlink /proc/$(inside)/exe | grep -q busybox; do sleep 0.1; done
}}
finish() {{ kill -9 $(inside); while [ -n "$(inside)" ]; do sleep 0.1; done; }}
go plain "" plain
go userns "" userns
go hooked "" hooked
go hooked-userns "" hooked-userns
begin sleeping
first=$(inside); mkdir /run/ns
for name in pid net ipc; do ln -s /proc/$first/ns/$name /run/ns/$name; done
echo "= first"; for name in mnt pid net cgroup; do echo ns-$name $(readlink /proc/$first/ns/$name); done
go exec "pfd $first" exec
go joined "" joined
go hooked-joined "" hooked-joined
echo 1 > {cgroup}/pids.max
go full "pfd $first" exec
go full-second "pfd $first" exec-second
echo max > {cgroup}/pids.max
# below process 1 a launcher that ends orphans its group: who has stopped in it gets SIGHUP (_exit(3p))
( stopped exec-stopped )
( stopped exec-careless )
finish
echo "= onexec"
(
    echo "exec unconfined" > /proc/self/attr/apparmor/exec
    ( read onexec < /proc/self/attr/apparmor/exec; echo forked $onexec )
)
begin sleeping-userns
go exec-userns "pfd $(inside)" exec-userns
finish
"""

PFD = """
#include "sys.h"
#include "lib.h"
#include <linux/fcntl.h>
__attribute__((noreturn, used)) void entry_main(long *stack) {
        const char **argv = (const char **) (stack + 1);
        long pid = 0;

        for (const char *at = argv[1]; *at; at++)
                pid = pid * 10 + (*at - '0');

        long fd = sys(pidfd_open, pid, 0);

        if (fd != 5)
                sys(dup3, fd, 5, 0);
        sys(fcntl, 5, F_SETFD, 0);
        sys(execve, "/bin/corten-launch", argv + 2, 0);
        sys(exit_group, 9);
        __builtin_unreachable();
}
__asm__(".globl _start\\n_start: mov %rsp, %rdi\\nand $-16, %rsp\\ncall entry_main\\n");
"""


def document(*args: str, userns: bool = False, **process: Any) -> dict[str, Any]:
    config = default_config(*args, oomScoreAdj=50, apparmorProfile="unconfined", **process)
    linux = config["linux"]
    linux["namespaces"].append({"type": "cgroup"})
    linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "5"}
    if userns:
        linux["namespaces"].append({"type": "user"})
        linux.update(uidMappings=MAPS, gidMappings=MAPS)
    return config


def joined() -> dict[str, Any]:
    config = document("sh", "-c", LOOK)
    config["linux"]["namespaces"] = [
        *({"type": name} for name in ("mount", "uts", "cgroup")),
        *(
            {"type": name, "path": f"/run/ns/{link}"}
            for name, link in (("pid", "pid"), ("network", "net"), ("ipc", "ipc"))
        ),
    ]
    return config


FILTER = compile_profile(DENY_REBOOT)
CALLS = bpf.allowed_calls(FILTER)


def init(config: dict[str, Any]) -> Plan:
    context = InitContext(
        "c1",
        "/work",
        cgroup_paths={},
        cgroup_v2_dir=CGROUP,
        rootfs="/root-fs",
        wait_for_start=False,
        seccomp=FILTER,
        seccomp_calls=CALLS,
    )
    return compile_init(parse_config(config), FACTS, context)


def entering(config: dict[str, Any], uid: int, *args: str, clone_into_cgroup: bool = True) -> Plan:
    process = {"args": args or ["sh", "-c", LOOK], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": uid, "gid": uid}}
    context = ExecContext(
        "c1",
        cgroup_paths={},
        cgroup_v2_dir=CGROUP,
        clone_into_cgroup=clone_into_cgroup,
        seccomp=FILTER,
        seccomp_calls=CALLS,
    )
    return compile_exec(parse_config(config), parse_process({**process, "args": list(process["args"])}), FACTS, context)


def stopping(plan: Plan) -> Plan:
    """Stops right after the clone."""
    at = next(i for i, op in enumerate(plan.ops) if isinstance(op, Clone)) + 1
    return Plan((*plan.ops[:at], Stop(signal.SIGSTOP), *plan.ops[at:]), plan.inputs)


def without_second_dumpable(plan: Plan) -> Plan:
    """The twin: the change of ids has the last word."""
    return Plan(tuple(op for i, op in enumerate(plan.ops) if not i or not isinstance(op, SetDumpable)), plan.inputs)


PLANS = {
    "plain": init(document("sh", "-c", LOOK)),
    "userns": init(document("sh", "-c", LOOK, userns=True)),
    "sleeping": init(document("sleep", "1000")),
    "exec": entering(document("x"), 1000),
    "joined": init(joined()),
    "hooked": init(document("sh", "-c", LOOK) | {"hooks": HOOKS}),
    "hooked-userns": init(document("sh", "-c", LOOK, userns=True) | {"hooks": HOOKS}),
    "hooked-joined": init(joined() | {"hooks": HOOKS}),
    "exec-second": entering(document("x"), 1000, "id", clone_into_cgroup=False),
    "sleeping-userns": init(document("sleep", "1000", userns=True)),
    "exec-userns": entering(document("x", userns=True), 0),
}
PLANS["exec-stopped"] = stopping(PLANS["exec"])
PLANS["exec-careless"] = stopping(without_second_dumpable(PLANS["exec"]))


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, str]]:
    """What each container said, by its first word; `trace` is the launcher's."""
    files = {name: encode(plan, {"container": 5}, 4) for name, plan in PLANS.items()}
    files["corten-launch"] = Path(launcher_path()).read_bytes()
    files["pfd"] = built_pfd()
    sections: dict[str, dict[str, str]] = {}
    for line in guest.run(SCRIPT.format(cgroup=CGROUP), files):
        word, _, rest = line.partition(" ")
        if word == "=":
            current = sections[rest] = {}
        elif sections:
            current[word] = rest
    return sections


def built_pfd() -> bytes:
    folder = paths.scratch("pfd")
    launcher = paths.REPOSITORY / "launcher"
    options = ["-O1", "-ffreestanding", "-fno-pie", "-fno-stack-protector", "-nostdlib", "-static", f"-I{launcher}"]
    try:
        (folder / "pfd.c").write_text(PFD)
        subprocess.run(["cc", *options, "-o", folder / "pfd", folder / "pfd.c"], check=True)
        return (folder / "pfd").read_bytes()
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def failures(trace: str) -> list[tuple[int, int]]:
    """(index, errno) of the failures in a trace written down in hexadecimal."""
    data = bytes.fromhex(trace)
    return [(index, kind) for index, kind, _ in RECORD.iter_unpack(data) if 0 < kind < 4096]


HOOKED = ["hooked", "hooked-userns", "hooked-joined"]


@pytest.mark.parametrize("name", ["plain", "userns", "exec", "joined", "exec-userns", *HOOKED])
class TestEverywhere:
    """What holds for every container and every exec."""

    def test_no_step_failed(self, said: dict[str, dict[str, str]], name: str) -> None:
        assert failures(said[name]["trace"]) == []

    def test_cgroup_is_the_root_of_its_namespace(self, said: dict[str, dict[str, str]], name: str) -> None:
        assert said[name]["cgroup"] == "0::/"
        assert said[name]["sees"] == "max"

    def test_protections_are_in_place(self, said: dict[str, dict[str, str]], name: str) -> None:
        section = said[name]
        assert (section["masked"], section["sysctl"], section["null"]) == ("0 0", "refused", "writable")
        assert section["filter"].split() == ["Seccomp:", "2"]
        assert section["profile"].startswith("unconfined")
        assert section["fds"] == "0 1 2 3"

    def test_settings_are_as_asked(self, said: dict[str, dict[str, str]], name: str) -> None:
        section = said[name]
        uid = 1000 if name == "exec" else 0
        caps = DEFAULT_CAPS if uid == 0 else 0
        assert section["uid"] == str(uid)
        assert section["score"] == "50"
        assert section["port"] == "5"
        assert section["caps"].split() == ["CapPrm:", f"{caps:016x}", "CapBnd:", f"{DEFAULT_CAPS:016x}"]

    def test_ids_are_mapped_where_asked(self, said: dict[str, dict[str, str]], name: str) -> None:
        mapped = "0 100000 65536" if "userns" in name else "0 0 4294967295"
        assert said[name]["map"] == mapped


@pytest.mark.parametrize("name", HOOKED)
def test_what_hooks_mount_beneath_the_root_stays(said: dict[str, dict[str, str]], name: str) -> None:
    assert said[name]["left"] == "1 filtered"


def test_exec_is_in_the_containers_namespaces(said: dict[str, dict[str, str]]) -> None:
    names = [f"ns-{name}" for name in ("mnt", "pid", "net", "cgroup")]
    assert [said["exec"][name] for name in names] == [said["first"][name] for name in names]


def test_joined_namespaces_are_the_others(said: dict[str, dict[str, str]]) -> None:
    assert [said["joined"][f"ns-{name}"] == said["first"][f"ns-{name}"] for name in ("pid", "net", "mnt")] == [
        *(True, True, False)
    ]


def test_container_at_its_limit_refuses_the_first_plan_and_takes_the_second(said: dict[str, dict[str, str]]) -> None:
    clone = next(i for i, op in enumerate(PLANS["exec"].ops) if isinstance(op, CloneLauncher))
    assert failures(said["full"]["trace"]) == [(clone, EAGAIN)]
    assert failures(said["full-second"]["trace"]) == []
    assert said["full-second"]["uid=1000"] == "gid=1000"


def test_change_of_ids_does_not_make_the_launcher_dumpable(said: dict[str, dict[str, str]]) -> None:
    assert said["exec-stopped"]["owner"].split() == ["0", "uid", "Uid:", *["1000"] * 4]
    assert said["exec-careless"]["owner"].split()[0] == "1000", "without the second prctl it is"


def test_apparmor_profile_of_the_next_execve_is_kept_by_fork(said: dict[str, dict[str, str]]) -> None:
    assert said["onexec"]["forked"].split()[0] == "unconfined"
