"""Another process in a running container, and what the container can see of a launcher that comes in."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.launch.execops import Stop
from corten.launch.facts import HostFacts, facts_from_obj, facts_to_obj
from corten.launch.ops import Clone, Plan
from corten.launch.seccomp_compile import compile_profile
from support.launching import CAPS, DEFAULT_CAPS, NAMESPACES, Machine, Running, docker_filter

ALLOW_ALL: dict[str, object] = {"defaultAction": "SCMP_ACT_ALLOW"}
NAMES = ("mnt", "uts", "ipc", "pid", "net")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


def process(*args: str, **changes: Any) -> dict[str, Any]:
    return {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], **changes}


class TestExec:
    """setns, then the same tail as an init's."""

    def test_it_is_in_the_containers_namespaces_and_cgroups(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        script = f"for name in {' '.join(NAMES)}; do readlink /proc/self/ns/$name; done; cat /proc/self/cgroup"
        with machine.container(document) as inside:
            done = machine.exec(inside, document, process("sh", "-c", script)).finish()
            assert done.failure == ""
            assert done.lines[:5] == [os.readlink(f"/proc/{inside.pid}/ns/{name}") for name in NAMES]
            assert done.lines[5:] == Path(f"/proc/{inside.pid}/cgroup").read_text().splitlines()

    def test_it_has_the_containers_capabilities_and_its_own_user(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        asked = process("cat", "/proc/self/status", user={"uid": 1000, "gid": 1000, "additionalGids": [29]})
        with machine.container(document) as inside:
            done = machine.exec(inside, document, asked, seccomp=compile_profile(ALLOW_ALL)).finish()
        status = {name: value.split() for name, _, value in (line.partition(":") for line in done.lines)}
        assert (status["Uid"], status["Groups"], status["Seccomp"]) == (["1000"] * 4, ["29"], ["2"])
        assert int(status["CapBnd"][0], 16) == DEFAULT_CAPS
        assert int(status["CapPrm"][0], 16) == 0

    def test_output_error_and_exit_code_come_back(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        with machine.container(document) as inside:
            done = machine.exec(inside, document, process("sh", "-c", "echo o; echo e >&2; exit 5")).finish()
        assert (done.out, done.err, done.status) == ("o\n", "e\n", 5)

    def test_nothing_but_stdio_is_open(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        with machine.container(document) as inside:
            done = machine.exec(inside, document, process("ls", "/proc/self/fd")).finish()
        assert done.out.split() == ["0", "1", "2", "3"]

    def test_container_at_its_limit_of_processes_can_be_entered(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        limit = Path(machine.cgroup_paths["pids"]) / "pids.max"
        with machine.container(document) as inside:
            limit.write_text("1")
            try:
                done = machine.exec(inside, document, process("echo", "in")).finish()
            finally:
                limit.write_text("max")
        assert done.out == "in\n"

    def test_missing_program_in_runcs_words(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        with machine.container(document) as inside:
            done = machine.exec(inside, document, process("nothing")).finish()
        assert done.failure == 'exec: "nothing": executable file not found in $PATH'

    def test_missing_directory_is_not_made(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        with machine.container(document) as inside:
            done = machine.exec(inside, document, process("pwd", cwd="/no/such")).finish()
        assert done.failure == 'chdir to cwd ("/no/such") set in config.json failed: no such file or directory'

    def test_terminal_is_of_the_containers_devpts(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        asked = process("sh", "-c", "tty; stty size", terminal=True, consoleSize={"height": 9, "width": 8})
        with machine.container(document) as inside:
            ours, theirs = socket.socketpair()
            running = machine.exec(inside, document, asked, {"console": theirs.fileno()}, console=True)
            theirs.close()
            _, (master,), _, _ = socket.recv_fds(ours, 64, 4)
            ours.close()
            data = b""
            while b"9 8\r\n" not in data:
                data += os.read(master, 4096)
            os.close(master)
            running.finish()
        assert data.split(b"\r\n")[0] == b"/dev/pts/0"

    def test_user_namespace_is_entered_as_its_root(self, machine: Machine) -> None:
        maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        document = machine.config("sleep", "1000")
        document["linux"]["namespaces"].append({"type": "user"})
        document["linux"].update(uidMappings=maps, gidMappings=maps)
        asked = process("sh", "-c", "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status")
        with machine.container(document) as inside:
            done = machine.exec(inside, document, asked).finish()
        assert done.failure == ""
        assert done.lines[0] == "0"
        assert done.lines[1].split() == ["0", "100000", "65536"]
        assert int(done.lines[2].split()[1], 16) == DEFAULT_CAPS

    def test_second_plan_joins_by_itself(self, machine: Machine) -> None:
        document = machine.config("sleep", "1000")
        with machine.container(document) as inside:
            asked = process("cat", "/proc/self/cgroup")
            done = machine.exec(inside, document, asked, clone_into_cgroup=False).finish()
            assert done.lines == Path(f"/proc/{inside.pid}/cgroup").read_text().splitlines()


MAPS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
ONLY_EXECVE: dict[str, object] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["clone", "setsid", "capset"], "action": "SCMP_ACT_ERRNO"}],
}
FILTERS = {"docker": docker_filter(), "strict": compile_profile(ONLY_EXECVE), "unconfined": b""}


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("no_new_privs", [False, True])
@pytest.mark.parametrize("uid", [0, 1000])
class TestForms:
    """What the program finds of itself is the same by every plan."""

    def status(self, machine: Machine, document: dict[str, Any], uid: int, no_new_privs: bool, filter: str) -> Any:
        caps = {"bounding": CAPS} if uid else dict.fromkeys(("bounding", "effective", "permitted"), CAPS)
        asked = process(
            "cat",
            "/proc/self/status",
            user={"uid": uid, "gid": uid},
            noNewPrivileges=no_new_privs,
            capabilities=caps,
            rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        )
        with machine.container(document) as inside:
            done = machine.exec(inside, document, asked, seccomp=FILTERS[filter]).finish()
        assert done.failure == ""
        assert done.status == 0
        return {name: value.split() for name, _, value in (line.partition(":") for line in done.lines)}

    def check(self, status: Any, uid: int, no_new_privs: bool, filter: str) -> None:
        held = 0 if uid else DEFAULT_CAPS
        caps = [int(status[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")]
        assert caps == [held, held, DEFAULT_CAPS, 0, 0]
        assert (status["Uid"], status["Gid"]) == ([str(uid)] * 4, [str(uid)] * 4)
        assert status["NoNewPrivs"] == [str(int(no_new_privs))]
        assert status["Seccomp"] == ["2" if FILTERS[filter] else "0"]

    def test_exec(self, machine: Machine, uid: int, no_new_privs: bool, filter: str) -> None:
        status = self.status(machine, machine.config("sleep", "1000"), uid, no_new_privs, filter)
        self.check(status, uid, no_new_privs, filter)

    def test_exec_in_a_user_namespace(self, machine: Machine, uid: int, no_new_privs: bool, filter: str) -> None:
        document = machine.config("sleep", "1000")
        document["linux"]["namespaces"].append({"type": "user"})
        document["linux"].update(uidMappings=MAPS, gidMappings=MAPS)
        self.check(self.status(machine, document, uid, no_new_privs, filter), uid, no_new_privs, filter)

    def test_init_that_joins_a_pid_namespace(self, machine: Machine, uid: int, no_new_privs: bool, filter: str) -> None:
        caps = {"bounding": CAPS} if uid else dict.fromkeys(("bounding", "effective", "permitted"), CAPS)
        with machine.container() as first:
            document = machine.config(
                "cat", "/proc/self/status", user={"uid": uid, "gid": uid}, noNewPrivileges=no_new_privs
            )
            document["process"]["capabilities"] = caps
            document["linux"]["namespaces"] = [
                *({"type": name} for name in NAMESPACES if name != "pid"),
                {"type": "pid", "path": f"/proc/{first.pid}/ns/pid"},
            ]
            for pidns in {False, machine.facts.procfs_pidns}:
                done = machine.run(document, facts=with_pidns(machine.facts, pidns), seccomp=FILTERS[filter])
                assert done.failure == ""
                status = {name: value.split() for name, _, value in (line.partition(":") for line in done.lines)}
                self.check(status, uid, no_new_privs, filter)


def with_pidns(facts: HostFacts, value: bool) -> HostFacts:
    """The same machine with a kernel that can mount another namespace's procfs, or cannot."""
    return facts_from_obj({**facts_to_obj(facts), "procfs_pidns": value})


def test_time_namespace_is_new_or_joined_beside_a_joined_pid_namespace(machine: Machine) -> None:
    with machine.container() as first:
        for pidns in {False, machine.facts.procfs_pidns}:
            document = machine.config("cat", "/proc/self/timens_offsets")
            kept = [{"type": name} for name in NAMESPACES if name != "pid"]
            document["linux"]["namespaces"] = [*kept, {"type": "pid", "path": f"/proc/{first.pid}/ns/pid"}]
            document["linux"]["namespaces"].append({"type": "time"})
            document["linux"]["timeOffsets"] = {"boottime": {"secs": 1000}}
            done = machine.run(document, facts=with_pidns(machine.facts, pidns))
            assert [line.split() for line in done.lines][1:] == [["boottime", "1000", "0"]], done.failure
            document["linux"]["namespaces"][-1]["path"] = f"/proc/{first.pid}/ns/time"
            del document["linux"]["timeOffsets"]
            done = machine.run(document, facts=with_pidns(machine.facts, pidns))
            assert [line.split() for line in done.lines][1:] == [["boottime", "0", "0"]], done.failure


@pytest.mark.parametrize("source", ["proc", "s" * 300], ids=["short", "longer than fsconfig takes"])
def test_procfs_of_an_init_that_joins_a_pid_namespace_shows_that_one(machine: Machine, source: str) -> None:
    with machine.container(machine.config("sleep", "1234")) as first:
        document = machine.config("sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; echo; grep ' /proc ' /proc/self/mounts")
        kept = [{"type": name} for name in NAMESPACES if name != "pid"]
        document["linux"]["namespaces"] = [*kept, {"type": "pid", "path": f"/proc/{first.pid}/ns/pid"}]
        (proc,) = [entry for entry in document["mounts"] if entry["destination"] == "/proc"]
        proc["source"] = source
        done = machine.run(document)
        assert done.lines[0].split() == ["sleep", "1234"], done.failure
        assert done.lines[1].split()[:3] == [source, "/proc", "proc"]


def test_limit_of_processes_of_a_user_counts_without_the_launcher(machine: Machine) -> None:
    document = machine.config("sleep", "1000")
    uid = 54321  # of nobody else here
    limit = [{"type": "RLIMIT_NPROC", "soft": 1, "hard": 1}]
    asked = process("sh", "-c", "ulimit -u; ulimit -Hu", user={"uid": uid, "gid": uid}, rlimits=limit)
    with machine.container(document) as inside:
        done = machine.exec(inside, document, asked, seccomp=docker_filter()).finish()
    assert done.failure == ""
    assert done.lines == ["1", "1"]


def test_exec_that_fails_leaves_no_child(machine: Machine) -> None:
    document = machine.config("sleep", "1000")
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with machine.container(document) as inside:
        before = children.read_text()
        assert machine.exec(inside, document, process("nothing")).finish().failure
        assert children.read_text() == before, "neither launcher is left"


class TestVisible:
    """A container with SYS_PTRACE looks at the launcher, which stops at each step after clone3."""

    ALLOWED = ("pipe:", "/dev/null", "/memfd:", "anon_inode:")

    @pytest.fixture
    def looking(self, machine: Machine) -> Iterator[tuple[Running, dict[str, Any]]]:
        document = machine.config("sleep", "1000")
        for names in document["process"]["capabilities"].values():
            names.append("CAP_SYS_PTRACE")
        with machine.container(document) as inside:
            yield inside, document

    def stopping_at(self, machine: Machine, inside: Running, document: dict[str, Any], step: int) -> Running | None:
        """An exec that stops before its step-th op after clone3; None when there is none."""
        here: list[bool] = []

        def stop(plan: Plan) -> Plan:
            clone = next(i for i, op in enumerate(plan.ops) if isinstance(op, Clone))
            at = clone + 1 + step
            here.append(at < len(plan.ops))
            ops = (*plan.ops[:at], Stop(signal.SIGSTOP), *plan.ops[at:]) if here[0] else plan.ops
            return Plan(ops, plan.inputs)

        running = machine.exec(inside, document, process("true"), transform=stop)
        if here == [True]:
            running.waiting()
            os.waitid(os.P_PID, running.pid, os.WSTOPPED)
            return running
        running.finish()
        return None

    def test_launcher_holds_no_directory_and_no_socket_of_the_host(
        self, machine: Machine, looking: tuple[Running, dict[str, Any]]
    ) -> None:
        inside, document = looking
        script = (
            "for p in /proc/[0-9]*; do [ $p = /proc/1 ] || [ $p = /proc/$$ ] ||"
            " for f in $p/fd/* $p/cwd $p/root $p/exe; do echo $f $(readlink $f); done; done"
        )
        looked = step = 0
        while running := self.stopping_at(machine, inside, document, step):
            step += 1
            seen = machine.exec(inside, document, process("sh", "-c", script)).finish()
            running.stop()
            links = {line.split()[0].split("/", 3)[3]: line.split()[1:] for line in seen.lines if "/fd/" in line}
            places = {line.split()[0].rpartition("/")[2]: line.split()[1:] for line in seen.lines if "/fd/" not in line}
            looked += bool(links)
            for name, target in links.items():
                assert target, f"{name} before step {step} cannot be read"
                own_cgroup = target[0] in (f"{machine.cgroup_paths.get('pids', '')}/tasks", "/")
                assert target[0].startswith(self.ALLOWED) or own_cgroup, f"{name} -> {target} before step {step}"
            assert places["cwd"] in (["/"], []), places
            assert places["root"] in (["/"], []), places
        assert looked == step > 3, "the launcher was looked at before every step"

    def test_it_holds_no_directory_of_its_cgroup(
        self, machine: Machine, looking: tuple[Running, dict[str, Any]]
    ) -> None:
        inside, document = looking
        running = self.stopping_at(machine, inside, document, 0)
        assert running is not None
        base = Path(f"/proc/{running.pid}/fd")
        folders = [name for name in os.listdir(base) if (base / name).is_dir()]
        running.stop()
        assert folders == []
