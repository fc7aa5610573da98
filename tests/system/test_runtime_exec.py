"""What a process file of `exec --process` says of umask, terminal and capabilities, beside runc."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import peers, runtimes
from support.console import ConsoleSocket, read_until
from support.runtimes import Runtime

PROCESS = {"cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
STAMP = re.compile(r'time="[^"]*" ')


def test_without_limits_in_its_file_an_exec_has_the_containers(corten: Runtime, runc: Runtime, folder: Path) -> None:
    script = "grep 'Max core' /proc/self/limits; cat /proc/self/oom_score_adj"
    path = file_of(folder, "sh", "-c", script, oomScoreAdj=300)
    found = {}
    for runtime in (corten, runc):
        started(runtime, folder, rlimits=[{"type": "RLIMIT_CORE", "soft": 512, "hard": 1024}])
        (runtime.root.parent / Path(runtime.program).name / "rootfs/bin/grep").symlink_to("busybox")
        found[runtime] = runtime("exec", "-p", path, "c", check=True).stdout.split()
    assert found[corten][4:6] == ["512", "1024"]
    assert found[runc][4:6] != ["512", "1024"]  # those of its caller
    assert (found[corten][-1], found[runc][-1]) == ("300", "0")  # 1.1 knows no oomScoreAdj of an exec


@pytest.fixture
def runc(folder: Path) -> Iterator[Runtime]:
    made = Runtime(peers.binary("runc"), folder / "runc")
    yield made
    made.close()


def started(runtime: Runtime, folder: Path, **process: Any) -> None:
    """A container `c` whose process does nothing."""
    bundle = runtimes.bundle("sleep", "1000", folder=folder / Path(runtime.program).name)
    bundle.config["process"].update(process)
    bundle.config["linux"]["cgroupsPath"] += Path(runtime.program).name
    runtime.detached("run", "-d", "-b", str(bundle.save().path), "c")


def file_of(folder: Path, *args: str, **fields: Any) -> str:
    """The path of a process file."""
    path = folder / f"{os.urandom(3).hex()}.json"
    path.write_text(json.dumps({**PROCESS, "args": args, **fields}))
    return str(path)


def test_the_umask_is_that_of_the_process_file_or_of_the_container(
    corten: Runtime, runc: Runtime, folder: Path
) -> None:
    own = file_of(folder, "sh", "-c", "umask", user={"uid": 0, "gid": 0, "umask": 0o77})
    silent = file_of(folder, "sh", "-c", "umask")
    found = {}
    for runtime in (corten, runc):
        started(runtime, folder, user={"uid": 0, "gid": 0, "umask": 0o27})
        lines = (["-p", own, "c"], ["-p", silent, "c"], ["c", "sh", "-c", "umask"])
        found[runtime] = [runtime("exec", *line, check=True).stdout.strip() for line in lines]
    assert found[corten] == ["0077", "0027", "0027"]
    assert found[runc] == ["0022", "0022", "0022"]  # 1.1 knows no umask of an exec


def test_the_terminal_has_the_size_of_the_process_file(corten: Runtime, runc: Runtime, folder: Path) -> None:
    size = {"height": 33, "width": 99}
    path = file_of(folder, "sh", "-c", "stty size; sleep 1000", terminal=True, consoleSize=size)
    for runtime in (corten, runc):
        started(runtime, folder)
        console = ConsoleSocket(folder / f"console-{Path(runtime.program).name}")
        runtime.detached("exec", "-d", "-p", path, "--console-socket", str(console.path), "c")
        master = console.master()
        read_until(master, f"{size['height']} {size['width']}".encode())
        os.close(master)


def test_capabilities_that_nobody_knows_are_told_and_left_out(corten: Runtime, runc: Runtime, folder: Path) -> None:
    sets = {name: ["CAP_KILL", "CAP_OF_TOMORROW"] for name in ("bounding", "effective", "permitted")}
    show = ("sh", "-c", "grep Cap /proc/self/status")
    path = file_of(folder, *show, capabilities=sets)
    found = {}
    for runtime in (corten, runc):
        bundle = runtimes.bundle(*show, folder=folder / Path(runtime.program).name)
        (bundle.path / "rootfs/bin/grep").symlink_to("busybox")
        bundle.config["process"]["capabilities"] = sets
        done = [runtime("run", "-b", str(bundle.save().path), "once")]
        started(runtime, folder, capabilities=sets)
        done.append(runtime("exec", "-p", path, "c"))
        done.append(runtime("exec", "--cap", "CAP_OF_TOMORROW", "c", *show))
        found[runtime] = [(one.returncode, one.stdout, STAMP.sub("", one.stderr)) for one in done]
    assert found[corten] == found[runc]
    text = 'level=warning msg="ignoring unknown or unavailable capabilities: [CAP_OF_TOMORROW]"\n'
    assert [error for _, _, error in found[corten]] == [text] * 3


def test_a_capability_that_this_machine_lacks_is_told(corten: Runtime, runc: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle")
    for names in bundle.config["process"]["capabilities"].values():
        names.append("CAP_SYS_RESOURCE")
    bundle.save()
    done = without_sys_resource(corten, "run", "-b", str(bundle.path), "c")
    assert done.returncode == 0
    assert "ignoring unknown or unavailable capabilities: [CAP_SYS_RESOURCE]" in done.stderr
    theirs = without_sys_resource(runc, "run", "-b", str(bundle.path), "c")
    assert "unable to apply caps: operation not permitted" in theirs.stderr


def without_sys_resource(runtime: Runtime, *words: str) -> subprocess.CompletedProcess[str]:
    """A verb of a runtime that lacks CAP_SYS_RESOURCE, whatever this machine has."""
    argv = ["setpriv", "--bounding-set=-sys_resource", *runtime.argv(*words)]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
