"""Configurations that no engine writes, beside runc: what works with it works here, and shows the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, runtimes, sameness
from support.compatibility import KNOWN, OF_RUN
from support.runtimes import Runtime

PROGRAMS = (paths.COMMANDS / "corten-runtime", peers.binary("runc"))
Change = Callable[[dict[str, Any]], object]
STAMP = re.compile(r'time="[^"]*" ')
# a bundle may lack a mount namespace of the right propagation: nothing of it reaches the machine
PRIVATE = ("unshare", "--mount", "--propagation", "private")


def mount(destination: str, type: str, source: str, *options: str) -> Change:
    entry = {"destination": destination, "type": type, "source": source, "options": list(options)}
    return lambda config: (config["root"].update(readonly=False), config["mounts"].append(entry))


def linux(**fields: Any) -> Change:
    return lambda config: config["linux"].update(fields)


def of_process(**fields: Any) -> Change:
    return lambda config: config["process"].update(fields)


def resources(**fields: Any) -> Change:
    return lambda config: config["linux"]["resources"].update(fields)


def without(kind: str) -> Change:
    """Without a namespace of that kind."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].remove({"type": kind})
        if kind == "uts":
            del config["hostname"]

    return change


ONE = {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}
# all of them start with both, and show the same
SAME: dict[str, Change] = {
    **{f"no {kind} namespace": without(kind) for kind in ("pid", "network", "ipc", "uts", "cgroup")},
    "a domain name": lambda config: config.update(domainname="example"),
    "a mount on a relative path": mount("m/x", "tmpfs", "t"),
    "a mount on a path out of the root": mount("/m/../../x", "tmpfs", "t"),
    "a file on what is not there": mount("/etc/hosts", "bind", "/etc/hosts", "rbind", "ro"),
    "a directory on what is not there": mount("/a/b/c", "bind", "/etc", "rbind", "ro"),
    "a bind by its option alone": mount("/a", "none", "/etc", "rbind", "ro"),
    "a device of the host": mount("/a/null", "bind", "/dev/null", "bind"),
    "a tmpfs with everything": mount("/a", "tmpfs", "x", "size=1m", "mode=711", "uid=5", "gid=6", "nr_inodes=10"),
    "a tmpfs that looks like what it covers": mount("/tmp", "tmpfs", "x"),
    "a ramfs": mount("/a", "ramfs", "x"),
    "a shared tmpfs": mount("/a", "tmpfs", "x", "shared"),
    "cgroups with one option": mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro"),
    "a FIFO among the devices": linux(devices=[{"path": "/dev/f", "type": "p", "fileMode": 0o640, "uid": 3, "gid": 4}]),
    "a device outside of /dev": linux(devices=[{"path": "/x/y", "type": "u", "major": 1, "minor": 3}]),
    "a working directory that is not there": of_process(cwd="/new/dir"),
    "a variable given twice": of_process(env=["PATH=/bin", "A=1", "A=2"]),
    "an empty HOME": of_process(env=["PATH=/bin", "HOME="]),
    "groups given twice": of_process(user={"uid": 1000, "gid": 1000, "additionalGids": [1, 2, 3, 3]}),
    "a umask of nothing": of_process(user={"uid": 0, "gid": 0, "umask": 0}),
    "no capabilities": lambda config: config["process"].pop("capabilities"),
    "empty capabilities": of_process(capabilities={}),
    "ambient capabilities of a user": of_process(
        user={"uid": 7, "gid": 7}, capabilities={**ONE, "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    ),
    "capabilities in small letters": of_process(capabilities={"bounding": ["cap_kill"]}),
    "a program by a relative path": of_process(args=["bin/sh", "-c", sameness.LOOK]),
    "an empty seccomp object": linux(seccomp={}),
    "a filter beside new privileges": lambda config: (
        config["process"].update(noNewPrivileges=False),
        config["linux"].update(
            seccomp={
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
            }
        ),
    ),
    "a sysctl with slashes": linux(sysctl={"net/ipv4/ip_forward": "1"}),
    "masks of what is not there": linux(maskedPaths=["/nope", "/proc/keys", "/proc/scsi"]),
    "a read-only file": linux(readonlyPaths=["/nope", "/proc/bus", "/etc/passwd"]),
    "no memory limit": resources(memory={"limit": -1}),
    "a memory limit of 0": resources(memory={"limit": 0}),
    "swap without a limit": resources(memory={"limit": 1 << 27, "swap": -1}),
    "no OOM killer": resources(memory={"disableOOMKiller": True}),
    "a quota of none": resources(cpu={"quota": -1}),
    "a quota without a period": resources(cpu={"quota": 5000}),
    "a period alone": resources(cpu={"period": 50000}),
    "five processes": resources(pids={"limit": 5}),
    "any number of processes": resources(pids={"limit": -1}),
    "a throttled disk that is not there": resources(
        blockIO={"throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1000000}]}
    ),
    "a device rule": resources(
        devices=[{"allow": False, "access": "rwm"}, {"allow": True, "type": "b", "major": 8, "access": "r"}]
    ),
    "every device": resources(devices=[{"allow": True, "access": "rwm"}]),
    "no device rules": resources(devices=[]),
}

# both refuse, in the words that follow; what stands before and behind them is each one's own
REFUSED: dict[str, tuple[Change, str]] = {
    "an empty command": (of_process(args=[""]), 'exec: "": executable file not found in $PATH'),
    "no command": (of_process(args=[]), "args must not be empty"),
    "a missing program": (of_process(args=["nope"]), 'exec: "nope": executable file not found in $PATH'),
    "a directory": (of_process(args=["/etc"]), 'exec: "/etc": permission denied'),
    "a file on a directory": (mount("/tmp", "bind", "/etc/passwd", "rbind"), "not a directory"),
    "a directory on a file": (mount("/etc/passwd", "bind", "/etc", "rbind"), "not a directory"),
    "a missing source": (mount("/a", "bind", "/nonexistent", "rbind"), "no such file or directory"),
    "a file system of tomorrow": (mount("/a", "nofs", "x"), "no such device"),
    "an option of tomorrow": (mount("/a", "tmpfs", "x", "foo=bar"), "invalid argument"),
    "a namespace twice": (lambda config: config["linux"]["namespaces"].append({"type": "pid"}), "pid"),
    "a limit of tomorrow": (of_process(rlimits=[{"type": "RLIMIT_FOO", "soft": 1, "hard": 3}]), "RLIMIT_FOO"),
    "the host's sysctl": (linux(sysctl={"vm.swappiness": "1"}), "is not in a separate kernel namespace"),
    "a hostname of the host": (lambda config: config["linux"]["namespaces"].remove({"type": "uts"}), "UTS namespace"),
    "more swappy than possible": (resources(memory={"swappiness": 200}), "200"),
    "less swap than memory": (resources(memory={"limit": 1 << 27, "swap": 1 << 26}), "invalid argument"),
    "few shares": (resources(cpu={"shares": 1}), "the minimum allowed cpu-shares is 2"),
}

# what the specification calls an error, and runc passes over
PASSED_OVER: dict[str, tuple[Change, str]] = {
    "no version": (lambda config: config.pop("ociVersion"), "ociVersion"),
    "a limit twice": (of_process(rlimits=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}] * 2), "given twice"),
    "a relative device": (linux(devices=[{"path": "dev/q", "type": "c", "major": 1, "minor": 3}]), "absolute path"),
    "mappings of nobody": (
        linux(uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}]), "id mappings without a user namespace",
    ),
    "an errno of no action": (
        linux(
            seccomp={
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ALLOW", "errnoRet": 3}],
            }
        ),
        "takes no errno",
    ),
}  # fmt: skip


@pytest.fixture
def sides(folder: Path) -> Iterator[list[Runtime]]:
    made = [Runtime(program, folder / program.name) for program in PROGRAMS]
    yield made
    for side in made:
        side.close()


def run(side: Runtime, change: Change) -> subprocess.CompletedProcess[str]:
    bundle = runtimes.bundle("sh", "-c", sameness.LOOK, folder=side.root.parent / "bundle")
    link = bundle.path / "rootfs/bin/grep"
    if not link.is_symlink():
        link.symlink_to("busybox")
    bundle.config["linux"]["cgroupsPath"] = f"/{paths.mark()}runtime/odd"
    change(bundle.config)
    bundle.save()
    argv = [*PRIVATE, *side.argv("run", "-b", str(bundle.path), "C")]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


@pytest.mark.parametrize("name", SAME)
def test_a_container_shows_what_it_shows_with_runc(sides: list[Runtime], name: str) -> None:
    done = [run(side, SAME[name]) for side in sides]
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    words = {str(sides[0].root.parent): "FOLDER"}
    ours, theirs = [sameness.parse(one.stdout, words) for one in done]
    assert sameness.unexplained(sameness.differences(theirs, ours), [*KNOWN, *OF_RUN]) == []
    said = [STAMP.sub("", one.stderr) for one in done]
    if name == "a mount on a relative path":  # of which runc tells twice
        said[1] = said[1].splitlines(keepends=True)[0]
    assert said[0] == said[1]


@pytest.mark.parametrize("name", REFUSED)
def test_what_runc_refuses_is_refused(sides: list[Runtime], name: str) -> None:
    change, words = REFUSED[name]
    for side in sides:
        done = run(side, change)
        assert done.returncode == 1
        assert words in json.loads(f'"{done.stderr.splitlines()[-1].partition("msg=")[2][1:-1]}"')
    assert not sides[0].root.exists() or os.listdir(sides[0].root) == []


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_the_specification_calls_an_error_is_one(sides: list[Runtime], name: str) -> None:
    change, words = PASSED_OVER[name]
    ours, theirs = [run(side, change) for side in sides]
    assert (ours.returncode, theirs.returncode) == (1, 0)
    assert words in ours.stderr
