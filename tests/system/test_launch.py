"""Plans executed for real: what the kernel shows of a container that the launcher made."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.launch.execops import Exec, Seccomp
from corten.launch.seccomp_compile import compile_profile
from support.launching import CAPS, DEFAULT_CAPS, Machine

ALLOW_ALL_BUT_REBOOT: dict[str, object] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}],
}
ONLY_EXECVE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW"}],
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


def status_of(lines: list[str]) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class TestDefault:
    """A container as `docker run` asks for it."""

    def test_output_exit_code_and_steps_come_back(self, machine: Machine) -> None:
        done = machine.sh("echo out; echo err >&2; exit 42")
        assert (done.out, done.err, done.status, done.failure) == ("out\n", "err\n", 42, "")
        assert done.steps == list(range(len(done.plan.ops)))
        times = [event.ns for event in done.events if hasattr(event, "ns")]
        assert times == sorted(times)

    def test_every_namespace_is_new(self, machine: Machine) -> None:
        names = ("mnt", "uts", "ipc", "pid", "net")
        inside = machine.sh(f"for name in {' '.join(names)}; do readlink /proc/self/ns/$name; done").lines
        outside = [os.readlink(f"/proc/self/ns/{name}") for name in names]
        assert len(inside) == len(names)
        assert not set(inside) & set(outside)

    def test_process_is_the_first_and_leads_its_session(self, machine: Machine) -> None:
        assert machine.sh("cut -d' ' -f1,4,6 /proc/$$/stat").out == "1 0 1\n"

    def test_hostname_and_domainname(self, machine: Machine) -> None:
        document = machine.config("sh", "-c", "hostname; cat /proc/sys/kernel/domainname")
        document["domainname"] = "example.org"
        assert machine.run(document).lines == ["box", "example.org"]

    def test_nothing_but_stdio_is_open(self, machine: Machine) -> None:
        assert machine.sh("ls /proc/self/fd").out.split() == ["0", "1", "2", "3"]

    def test_mounts_are_those_of_the_configuration(self, machine: Machine) -> None:
        rows = [line.split() for line in machine.sh("cat /proc/self/mountinfo").lines]
        places = {row[4]: (row[row.index("-") + 1], row[5]) for row in rows}
        assert places["/proc"] == ("proc", "rw,nosuid,nodev,noexec,relatime")
        assert places["/dev"] == ("tmpfs", "rw,nosuid")
        assert places["/dev/pts"] == ("devpts", "rw,nosuid,noexec,relatime")
        assert places["/sys"] == ("sysfs", "ro,nosuid,nodev,noexec,relatime")
        assert places["/dev/mqueue"] == ("mqueue", "rw,nosuid,nodev,noexec,relatime")
        assert places["/dev/shm"] == ("tmpfs", "rw,nosuid,nodev,noexec,relatime")
        assert places["/proc/sys"][1].startswith("ro,")
        assert not [row for row in rows if row[6] != "-"], "nothing propagates"

    def test_host_sees_none_of_its_mounts(self, machine: Machine) -> None:
        before = Path("/proc/self/mountinfo").read_text()
        with machine.container():
            assert Path("/proc/self/mountinfo").read_text() == before

    def test_devices_and_links(self, machine: Machine) -> None:
        nodes = "stat -c '%n %F %t:%T %a' null zero full random urandom tty"
        links = "for link in fd stdin ptmx core; do readlink $link; done"
        lines = machine.sh(f"cd /dev; {nodes}; {links}").lines
        assert lines[0] == "null character special file 1:3 666"
        assert [line.split()[-2] for line in lines[:6]] == ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
        core = ["/proc/kcore"] if machine.facts.has_kcore else []
        assert lines[6:] == ["/proc/self/fd", "/proc/self/fd/0", "pts/ptmx", *core]

    def test_loopback_is_up(self, machine: Machine) -> None:
        assert "LOOPBACK,UP" in machine.sh("ip link show lo").out

    def test_masked_files_are_empty_and_masked_directories_too(self, machine: Machine) -> None:
        done = machine.sh("wc -c < /proc/keys; ls /sys/firmware | wc -l; echo x > /sys/firmware/y")
        assert done.lines == ["0", "0"]
        assert "Read-only file system" in done.err

    def test_readonly_paths_refuse_writes(self, machine: Machine) -> None:
        done = machine.sh("echo 1 > /proc/sys/kernel/panic; touch /proc/irq/default_smp_affinity")
        assert done.err.count("Read-only file system") == 2

    def test_sysctl_is_written_although_proc_sys_is_read_only(self, machine: Machine) -> None:
        document = machine.config("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/msgmax")
        document["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "7", "kernel.msgmax": "9000"}
        assert machine.run(document).lines == ["7", "9000"]

    def test_readonly_root(self, machine: Machine) -> None:
        document = machine.config("sh", "-c", "echo x > /file; echo x > /dev/shm/file && echo written")
        document["root"]["readonly"] = True
        done = machine.run(document)
        assert "Read-only file system" in done.err
        assert done.lines == ["written"]

    def test_parent_is_the_spawner_and_sees_an_ordinary_child(self, machine: Machine) -> None:
        with machine.container() as running:
            parent = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[1]
            assert int(parent) == os.getpid()
            pidfd = os.pidfd_open(running.pid)
            os.kill(running.pid, signal.SIGKILL)
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
            os.close(pidfd)
            assert result is not None
            assert (result.si_signo, result.si_status) == (signal.SIGCHLD, signal.SIGKILL)


class TestCgroups:
    """Membership, and what the container sees of it."""

    def test_process_is_in_every_cgroup_and_the_launcher_in_none(self, machine: Machine) -> None:
        with machine.container() as running:
            for path in [*machine.cgroup_paths.values(), machine.cgroup_v2_dir]:
                assert (Path(path) / "cgroup.procs").read_text().split() == [str(running.pid)], path

    def test_limit_of_one_process_is_enough(self, machine: Machine) -> None:
        limit = Path(machine.cgroup_paths["pids"]) / "pids.max"
        limit.write_text("1")
        try:
            done = machine.run(machine.config("echo", "alone"))
        finally:
            limit.write_text("max")
        assert done.out == "alone\n"

    def test_v1_view_is_its_own_directory_read_only(self, machine: Machine) -> None:
        if machine.facts.cgroup_mode == "v2":
            pytest.skip("no v1 hierarchies here")
        done = machine.sh("cat /sys/fs/cgroup/pids/tasks; echo 1 > /sys/fs/cgroup/pids/pids.max; ls /sys/fs/cgroup")
        assert done.lines[0] == "1"
        assert "Read-only file system" in done.err
        assert {Path(path).name for path in machine.facts.cgroup_v1.values()} == set(done.lines[2:]) | {
            line for line in done.lines[1:2] if line != "2"
        }

    def test_cgroup_namespace_has_its_cgroup_as_root(self, machine: Machine) -> None:
        document = machine.config("cat", "/proc/self/cgroup")
        document["linux"]["namespaces"].append({"type": "cgroup"})
        assert {line.rpartition(":")[2] for line in machine.run(document).lines} == {"/"}


class TestIdentity:
    """Ids and capabilities in all forms, and what execve leaves of them."""

    @pytest.mark.parametrize("filtered", [False, True])
    @pytest.mark.parametrize("no_new_privs", [False, True])
    @pytest.mark.parametrize("uid", [0, 1000])
    def test_capabilities_are_dockers(self, machine: Machine, uid: int, no_new_privs: bool, filtered: bool) -> None:
        names = ("bounding", "effective", "permitted") if uid == 0 else ("bounding",)
        document = machine.config(
            "cat",
            "/proc/self/status",
            user={"uid": uid, "gid": uid},
            noNewPrivileges=no_new_privs,
            capabilities=dict.fromkeys(names, CAPS),
        )
        filter = compile_profile(ALLOW_ALL_BUT_REBOOT) if filtered else b""
        done = machine.run(document, seccomp=filter)
        assert done.failure == ""
        status = status_of(done.lines)
        held = DEFAULT_CAPS if uid == 0 else 0
        assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [held, held, DEFAULT_CAPS]
        assert [int(status[name], 16) for name in ("CapInh", "CapAmb")] == [0, 0]
        assert status["NoNewPrivs"] == str(int(no_new_privs))
        assert status["Seccomp"] == ("2" if filtered else "0")
        assert status["Uid"].split() == [str(uid)] * 4
        assert status["Gid"].split() == [str(uid)] * 4

    def test_ambient_capabilities_reach_an_ordinary_user(self, machine: Machine) -> None:
        sets = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), ("CAP_NET_RAW",))
        lists = {name: list(names) for name, names in sets.items()}
        document = machine.config("cat", "/proc/self/status", user={"uid": 1000, "gid": 1000}, capabilities=lists)
        status = status_of(machine.run(document, seccomp=compile_profile(ALLOW_ALL_BUT_REBOOT)).lines)
        assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {1 << 13}

    def test_without_capabilities_root_has_none(self, machine: Machine) -> None:
        document = machine.config("cat", "/proc/self/status")
        del document["process"]["capabilities"]
        status = status_of(machine.run(document).lines)
        assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}

    def test_groups_umask_and_score(self, machine: Machine) -> None:
        user = {"uid": 1000, "gid": 50, "additionalGids": [50, 29], "umask": 0o077}
        done = machine.sh("id -G; umask; cat /proc/self/oom_score_adj", user=user, oomScoreAdj=300)
        assert done.lines == ["50 29", "0077", "300"]

    def test_default_umask(self, machine: Machine) -> None:
        assert machine.sh("umask").out == "0022\n"

    def test_limits(self, machine: Machine) -> None:
        limits = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
        done = machine.sh("ulimit -Sn; ulimit -Hn; ulimit -Hc", rlimits=limits)
        assert done.lines == ["99", "100", "0"]

    def test_stdio_belongs_to_the_user(self, machine: Machine) -> None:
        done = machine.sh("stat -L -c %u /proc/self/fd/1; echo again > /dev/stderr", user={"uid": 1000, "gid": 1000})
        assert (done.out, done.err) == ("1000\n", "again\n")

    @pytest.mark.parametrize(("uid", "home"), [(0, "/root"), (1000, "/home/user"), (4242, "/")])
    def test_home_comes_from_passwd(self, machine: Machine, uid: int, home: str) -> None:
        assert machine.sh("echo $HOME", user={"uid": uid, "gid": 0}).out == f"{home}\n"

    def test_passwd_that_is_a_pipe_is_no_trap(self, machine: Machine) -> None:
        passwd = machine.rootfs / "etc/passwd"
        passwd.rename(passwd.with_suffix(".kept"))
        os.mkfifo(passwd)
        try:
            assert machine.sh("echo $HOME").out == "/\n"
        finally:
            passwd.with_suffix(".kept").replace(passwd)

    def test_session_keyring_is_new(self, machine: Machine) -> None:
        document = machine.config("cat", "/proc/keys")
        document["linux"]["maskedPaths"] = []
        assert "_ses.c1" in machine.run(document).out


class TestSeccomp:
    """The filter is the last thing before execve."""

    def test_denied_call_fails(self, machine: Machine) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
        filter = compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
        done = machine.run(machine.config("mkdir", "/tmp/x"), seccomp=filter)
        assert "No space left on device" in done.err

    def test_profile_need_allow_execve_alone(self, machine: Machine) -> None:
        done = machine.run(machine.config("true"), seccomp=compile_profile(ONLY_EXECVE))
        assert done.failure == ""
        assert done.status != 0, "busybox cannot live on execve alone, but it was executed"

    def test_last_traced_step_is_the_filter(self, machine: Machine) -> None:
        done = machine.run(machine.config("true"), seccomp=compile_profile(ALLOW_ALL_BUT_REBOOT))
        assert isinstance(done.plan.ops[done.steps[-1]], Seccomp)
        assert isinstance(done.plan.ops[-1], Exec)

    def test_failed_execve_behind_the_filter_is_told(self, machine: Machine) -> None:
        (machine.rootfs / "bin/noise").write_bytes(b"\1\2\3")
        (machine.rootfs / "bin/noise").chmod(0o755)
        done = machine.run(machine.config("noise"), seccomp=compile_profile(ALLOW_ALL_BUT_REBOOT))
        assert (done.status, done.err) == (1, "exec /bin/noise: exec format error\n")
        assert done.failure == "exec noise: exec format error"


class TestDirectory:
    """The working directory."""

    def test_missing_one_is_made(self, machine: Machine) -> None:
        assert machine.sh("pwd", cwd="/made/for/me").out == "/made/for/me\n"

    def test_one_that_only_root_may_enter(self, machine: Machine) -> None:
        assert machine.sh("pwd -P", cwd="/root", user={"uid": 1000, "gid": 1000}).out == "/root\n"

    def test_descriptor_of_the_host_leads_nowhere(self, machine: Machine) -> None:
        """CVE-2024-21626: a working directory below /proc/self/fd."""
        stray = os.open("/", os.O_RDONLY)
        os.set_inheritable(stray, True)
        try:
            failures = {machine.sh("pwd", cwd=f"/proc/self/fd/{fd}").failure for fd in range(3, 40)}
        finally:
            os.close(stray)
        assert len(failures) == 37
        assert all("/proc/self/fd/" in text for text in failures)

    def test_file_is_no_directory(self, machine: Machine) -> None:
        failure = machine.sh("pwd", cwd="/bin/busybox").failure
        assert failure == "error during container init: mkdir /bin/busybox: not a directory"


class TestExecutable:
    """Lookup inside the root, in runc's words, before anything waits."""

    def test_path_is_the_containers(self, machine: Machine) -> None:
        tool = machine.rootfs / "usr/bin/only-here"
        tool.write_text("#!/bin/sh\necho $0\n")
        tool.chmod(0o755)
        assert machine.run(machine.config("only-here")).out == "/usr/bin/only-here\n"

    def test_relative_path_counts_from_the_working_directory(self, machine: Machine) -> None:
        assert machine.run(machine.config("./busybox", "echo", "x", cwd="/bin")).out == "x\n"

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("foo", 'exec: "foo": executable file not found in $PATH'),
            ("/x", 'exec: "/x": stat /x: no such file or directory'),
            ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
            ("/bin", 'exec: "/bin": permission denied'),
            ("/etc/passwd/x", 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory'),
        ],
    )
    def test_failures(self, machine: Machine, name: str, text: str) -> None:
        assert machine.run(machine.config(name)).failure == text

    def test_failure_is_known_before_the_start(self, machine: Machine) -> None:
        read_fd, write_fd = os.pipe()
        done = machine.run(machine.config("foo"), {"start": read_fd}, wait_for_start=True)
        os.close(read_fd)
        os.close(write_fd)
        assert "executable file not found" in done.failure
