"""`corten-runtime` called as CRI-O and its conmon call a runtime: line by line what runc gives for the same line.

CRI-O itself is in no Debian suite; its lines are those of its internal/oci/runtime_oci.go and of conmon's
src/runtime_args.c.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, process, runtimes
from support.runtimes import Bundle, Runtime

PROCESS = {
    "terminal": False,
    "user": {"uid": 0, "gid": 0, "additionalGids": [10]},
    "args": ["sh", "-c", "echo from exec; id -u; exit 7"],
    "env": ["PATH=/bin"],
    "cwd": "/tmp",
    "capabilities": {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "inheritable")},
    "noNewPrivileges": True,
}
RESOURCES = {
    "memory": {"limit": 64 << 20, "swap": 64 << 20},
    "cpu": {"shares": 300, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 33},
}


class Crio:
    """One runtime with a folder and a container `c`, called by CRI-O's lines."""

    def __init__(self, program: Path, kind: str) -> None:
        self.kind = kind
        self.folder = paths.scratch("crio")
        self.runtime = Runtime(program, self.folder / "state")
        self.bundle: Bundle = runtimes.bundle("sleep", "1000", folder=self.folder / "bundle")
        self.bundle.config["root"]["readonly"] = False
        self.bundle.save()
        (self.folder / "process.json").write_text(json.dumps(PROCESS))

    def conmon_create(self) -> subprocess.CompletedProcess[str]:
        """As conmon starts a container: a JSON log, a pid file, nothing on a terminal."""
        log = ("--log-format=json", "--log", str(self.folder / "log"))
        words = ("create", "--bundle", str(self.bundle.path), "--pid-file", str(self.folder / "pidfile"), "c")
        return self.runtime.detached(*log, *words, check=False)

    def conmon_exec(self) -> subprocess.CompletedProcess[str]:
        """As conmon starts an exec: detached, with a pid file of its own."""
        words = ("--pid-file", str(self.folder / "exec-pid"), "--process", str(self.folder / "process.json"))
        return self.runtime.detached("exec", *words, "--detach", "c", output=self.folder / "exec-out", check=False)

    def call(self, *words: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        """(exit status, stdout, stderr), with what may differ taken out."""
        done = self.runtime(*words, stdin=stdin)
        return done.returncode, done.stdout, self.normal(done.stderr)

    def normal(self, text: str) -> str:
        text = re.sub(r'time="[^"]*" level=error msg=', "", text).replace(str(self.folder), "FOLDER")
        return text.replace("\\", "").replace('"', "")

    def close(self) -> None:
        self.runtime.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def both() -> Iterator[list[Crio]]:
    made = [Crio(peers.binary("runc"), "runc"), Crio(paths.COMMANDS / "corten-runtime", "corten")]
    yield made
    for one in made:
        one.close()
    runtimes.remove_cgroups()


def same(both: list[Crio], step: Callable[[Crio], Any]) -> Any:
    """What both give for a step; fails when it is not the same."""
    theirs, ours = (step(one) for one in both)
    assert ours == theirs
    return ours


def state(one: Crio) -> tuple[str, bool]:
    """What CRI-O reads of `state`."""
    found = one.runtime.state("c")
    return found["status"], found["bundle"] == str(one.bundle.path)


def running(both: list[Crio]) -> None:
    for one in both:
        assert one.conmon_create().returncode == 0
        one.runtime("start", "c", check=True)


def test_a_container_lives_by_crio_s_lines_as_with_runc(both: list[Crio]) -> None:
    same(both, lambda one: one.conmon_create().returncode)
    assert same(both, state) == ("created", True)
    for one in both:
        assert int((one.folder / "pidfile").read_text()) == one.runtime.state("c")["pid"]
    assert same(both, lambda one: one.call("start", "c"))[0] == 0
    assert same(both, state) == ("running", True)
    same(both, lambda one: one.call("start", "c"))
    assert same(both, lambda one: one.call("pause", "c"))[0] == 0
    assert same(both, state) == ("paused", True)
    assert same(both, lambda one: one.call("resume", "c"))[0] == 0
    assert same(both, lambda one: one.call("kill", "c", "CONT"))[0] == 0
    assert same(both, lambda one: one.call("kill", "-a", "c", "9"))[0] == 0
    for one in both:
        one.runtime.wait_for("c", "stopped")
    same(both, lambda one: one.call("kill", "c", "TERM"))
    assert same(both, lambda one: one.call("delete", "--force", "c"))[0] == 0
    assert same(both, lambda one: one.call("delete", "--force", "c"))[0] == 0
    same(both, lambda one: one.call("state", "c"))
    assert not any(one.bundle.has_cgroup() for one in both)


def test_every_process_of_a_container_is_killed_by_kill_a(both: list[Crio]) -> None:
    """`kill -a ID NUM`: CRI-O's way to end what shares the node's pid namespace, where no init takes the rest along."""
    for one in both:
        namespaces = one.bundle.config["linux"]["namespaces"]
        one.bundle.config["linux"]["namespaces"] = [space for space in namespaces if space["type"] != "pid"]
        one.bundle.config["process"]["args"] = ["sh", "-c", "sleep 1000 & sleep 1001 & wait"]
        one.bundle.save()
    running(both)
    for one in both:
        process.wait_for(lambda one=one: len(pids(one)) == 3, "three processes")  # type: ignore[misc]
    assert same(both, lambda one: one.call("kill", "-a", "c", "9"))[0] == 0
    for one in both:
        process.wait_for(lambda one=one: not pids(one), "their end")  # type: ignore[misc]
        one.runtime.wait_for("c", "stopped")


def pids(one: Crio) -> list[str]:
    return one.bundle.cgroup("pids", "cgroup.procs").split()


def test_update_reads_resources_from_stdin(both: list[Crio]) -> None:
    running(both)
    resources = json.dumps(RESOURCES).encode()
    assert same(both, lambda one: one.call("update", "--resources", "-", "c", stdin=resources)) == (0, "", "")
    found = same(both, limits)
    assert found == ["67108864", "67108864", "300", "50000", "0", "33"]
    assert same(both, lambda one: one.call("update", "--resources", "-", "c", stdin=b"{")[0]) == 1


def limits(one: Crio) -> list[str]:
    files = (
        *(("memory", "memory.limit_in_bytes"), ("memory", "memory.memsw.limit_in_bytes"), ("cpu", "cpu.shares")),
        *(("cpu", "cpu.cfs_quota_us"), ("cpuset", "cpuset.cpus"), ("pids", "pids.max")),
    )
    return [one.bundle.cgroup(controller, file) for controller, file in files]


def test_an_exec_takes_its_process_from_a_file(both: list[Crio]) -> None:
    """`exec --process F ID` in the foreground, as for execs without a terminal."""
    running(both)
    found = same(both, lambda one: one.call("exec", "--process", str(one.folder / "process.json"), "c"))
    assert found == (7, "from exec\n0\n", "")


def test_conmon_s_exec_leaves_a_pid_and_a_process_behind(both: list[Crio]) -> None:
    running(both)
    assert same(both, lambda one: one.conmon_exec().returncode) == 0
    for one in both:
        assert int((one.folder / "exec-pid").read_text()) > 1
        process.wait_for(lambda one=one: "0\n" in (one.folder / "exec-out").read_text(), "output of the exec")  # type: ignore[misc]
    assert same(both, lambda one: (one.folder / "exec-out").read_text()) == "from exec\n0\n"


def test_the_last_line_of_the_json_log_is_the_error_that_crio_shows(both: list[Crio]) -> None:
    for one in both:
        one.bundle.config["process"]["args"] = ["nosuch"]
        one.bundle.save()
    assert same(both, lambda one: one.conmon_create().returncode) == 1
    found = same(
        both,
        lambda one: json.loads((one.folder / "log").read_text().splitlines()[-1])["msg"].replace(
            "corten-runtime", "runc"
        ),
    )
    assert 'exec: "nosuch": executable file not found in $PATH' in found


def test_features_and_version_need_no_state(both: list[Crio]) -> None:
    def known(one: Crio) -> set[str]:
        found = json.loads(one.runtime("features", check=True).stdout)
        return {"hooks", "mountOptions", "linux", "ociVersionMin", "ociVersionMax"} & set(found)

    assert len(same(both, known)) == 5
    for one in both:
        assert one.runtime("--version", check=True).stdout.split()[1] == "version"
