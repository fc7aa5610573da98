"""`signal-senders`: who ended a container that Corten did not end, on real deaths, also while cortend was dead."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.api import Api
from support import bpfprograms, images, peers
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
RUNTIMES = ["corten", "runc", pytest.param("crun", marks=pytest.mark.slow)]
USER = 12345  # of containers and of who kills them: an ordinary one


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """One that sees senders."""
    runtimes = {"runc": {"path": str(peers.binary("runc"))}, "crun": {"path": str(peers.crun_for_hybrid())}}
    with CortenEngine(config={"runtimes": runtimes, "signal-senders": True}) as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


@contextmanager
def container(engine: CortenEngine, *arguments: str, name: str = "dying") -> Iterator[int]:
    """The pid of one that runs; it is removed at the end."""
    engine.docker("run", "-d", "--network", "none", "--name", name, *arguments, check=True)
    try:
        yield state(engine, name)["Pid"]
    finally:
        engine.docker("rm", "-f", name)


def inspected(engine: CortenEngine, name: str) -> Any:
    return json.loads(engine.docker("inspect", name, check=True).stdout)[0]


def state(engine: CortenEngine, name: str) -> Any:
    return inspected(engine, name)["State"]


def verdict(engine: CortenEngine, name: str = "dying") -> Any:
    """Of a container that has ended, or ends now."""
    engine.docker("wait", name)
    return inspected(engine, name)["Corten"]["Verdict"]


def claims(found: Any) -> str:
    return "\n".join(f"{one['Claim']} | {one['Evidence']}" for one in found["Claims"])


def kill(pid: int, number: int = 9, *, user: int = 0) -> int:
    """By /bin/kill, which is gone at once; its pid."""
    as_user = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"] if user else []
    with subprocess.Popen([*as_user, "/bin/kill", f"-{number}", str(pid)]) as sender:
        assert sender.wait() == 0
        return sender.pid


def queue(pid: int, number: int, code: int, said_pid: int) -> None:
    """rt_sigqueueinfo(2), whose siginfo the sender fills in."""
    call = {"x86_64": 129, "aarch64": 138}[os.uname().machine]
    info = ctypes.create_string_buffer(struct.pack("=iii4xii", number, 0, code, said_pid, 0), 128)
    assert ctypes.CDLL(None).syscall(call, pid, number, info) == 0


def doctor(engine: CortenEngine, *flags: str) -> str:
    """What `cortend --doctor` finds."""
    argv = [*engine.netns.enter, *engine.argv, "--doctor", *flags]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=engine.environment)
    return done.stdout


def program(engine: CortenEngine) -> str:
    """The name of the engine's program in the kernel."""
    return f"ct_{(engine.data_root / 'engine-id').read_text().strip()}"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_kill_from_elsewhere_names_process_user_and_name(engine: CortenEngine, runtime: str) -> None:
    with container(engine, "--runtime", runtime, "-u", str(USER), IMAGE, "sleep", "1000") as pid:
        sender = kill(pid, user=USER)
        found = verdict(engine)
        expected = {"By": "process", "Pid": sender, "Uid": USER, "Gid": USER, "Command": "kill"}
        assert (found["Cause"], found["Signal"], found["Sender"]) == ("signal", 9, expected)
        assert found["Sentence"] == f"killed by SIGKILL from kill (pid {sender}, uid {USER})"
        assert f"process {sender}, uid {USER}, which called itself 'kill'; si_code 0" in claims(found)
        assert found["Sentence"] in engine.corten("why", "dying", check=True).stdout


def test_a_kill_by_a_client_is_still_the_clients(engine: CortenEngine) -> None:
    with container(engine, IMAGE, "sleep", "1000"):
        engine.docker("kill", "dying", check=True)
        found = verdict(engine)
        assert (found["Sender"]["By"], found["Sender"]["Command"]) == ("client", "docker")
        assert "corten-shim" not in claims(found)


def test_a_process_that_heeds_a_request_has_exited_after_it(engine: CortenEngine) -> None:
    script = "trap 'exit 3' TERM; echo r; while :; do sleep 0.05; done"
    with container(engine, IMAGE, "sh", "-c", script) as pid:
        wait_for(lambda: engine.docker("logs", "dying").stdout == "r\n", "trap")
        sender = kill(pid, signal.SIGTERM)
        found = verdict(engine)
        assert found["Sentence"] == f"exited with code 3 after SIGTERM from kill (pid {sender}, uid 0)"
        assert "Sender" not in found


def test_a_process_that_ends_itself_is_told_so(engine: CortenEngine) -> None:
    with container(engine, "--pid", "host", IMAGE, "sh", "-c", "sleep 0.3; kill -ABRT $$"):
        found = verdict(engine)
        assert found["Sentence"] == "killed by SIGABRT that it sent to itself"
        assert found["Sender"]["By"] == "itself"


def test_the_kernels_kill_for_want_of_memory_accuses_nobody(engine: CortenEngine) -> None:
    with container(engine, "-m", "16m", IMAGE, "sh", "-c", "sleep 0.3; exec tail -c 200m /dev/zero"):
        found = verdict(engine)
        assert found["Cause"] == "oom"
        assert "Sender" not in found
        assert "SIGKILL from the kernel" in claims(found)


def test_who_killed_a_shim_is_told(engine: CortenEngine) -> None:
    with container(engine, IMAGE, "sleep", "1000") as pid:
        shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        sender = kill(shim)
        found = verdict(engine)
        assert found["Cause"] == "shim-lost"
        assert found["Sentence"].endswith(f"the shim got SIGKILL from kill (pid {sender}, uid 0)")


def test_a_child_that_seccomp_kills_is_told_beside_the_end(engine: CortenEngine, tmp_path: Path) -> None:
    """By the container's own cgroup, which the kernel's log does not name."""
    call = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}
    (tmp_path / "profile.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}))
    given = ("--security-opt", f"seccomp={tmp_path}/profile.json")
    with container(engine, *given, IMAGE, "sh", "-c", "mkdir /x; exit 3"), container(engine, IMAGE, "true", name="by"):
        found = verdict(engine)
        assert (found["Cause"], found["ExitCode"]) == ("exited", 3)
        logged = r"by seccomp for system call \d+ \(arch 0x[0-9a-f]+\) by mkdir"
        assert re.search(
            rf"a process in it was killed ({logged}|by SIGSYS as from seccomp: mkdir) \(pid", found["Sentence"]
        )
        assert "seccomp" not in verdict(engine, "by")["Sentence"]


def test_what_was_seen_of_one_run_is_not_told_of_the_next(engine: CortenEngine) -> None:
    with container(engine, IMAGE, "sleep", "1000") as pid:
        kill(pid)
        assert "from kill" in verdict(engine)["Sentence"]
        engine.docker("start", "dying", check=True)
        engine.docker("kill", "dying", check=True)
        assert "kill (pid" not in verdict(engine)["Sentence"]


class TestAttacks:
    """What a container, or who kills it, can do to mislead."""

    def test_a_forged_name_is_a_name_and_nothing_else(self, engine: CortenEngine) -> None:
        with container(engine, IMAGE, "sleep", "1000") as pid:
            script = rf"printf '\033[2J (pid 1' > /proc/self/comm; kill -9 {pid}"
            with subprocess.Popen(["sh", "-c", script]) as sender:
                assert sender.wait() == 0
            found = verdict(engine)
            assert (found["Sender"]["Pid"], found["Sender"]["Command"]) == (sender.pid, r"\x1b[2J (pid 1")
            assert "\033" not in engine.corten("why", "dying", check=True).stdout

    def test_a_flood_of_signals_hides_nobody(self, engine: CortenEngine) -> None:
        """To its init, to its children, and many thousand times: a record is kept for each kind, of the init alone."""
        flood = "i=0; while [ $i -lt 20000 ]; do kill -USR1 $$; i=$((i+1)); done; "
        deaths = "i=0; while [ $i -lt 200 ]; do sleep 9 & kill -9 $!; i=$((i+1)); done; "
        script = f"trap : USR1; {flood}{deaths}echo done; exec sleep 1000"
        with (
            container(engine, IMAGE, "sleep", "1000", name="victim") as pid,
            container(engine, IMAGE, "sh", "-c", script),
        ):
            sender = kill(pid)
            own = state(engine, "dying")["Pid"]
            wait_for(lambda: engine.docker("logs", "dying").stdout == "done\n", "flood")
            assert f"from kill (pid {sender}, uid 0)" in verdict(engine, "victim")["Sentence"]
            later = kill(own)
            found = verdict(engine)
            assert found["Sentence"] == f"killed by SIGKILL from kill (pid {later}, uid 0)"
            assert "SIGUSR1 that it sent to itself | " in claims(found)
            assert len(found["Claims"]) <= 4

    def test_who_pretends_to_be_a_timer_is_not_named_for_certain_and_not_hidden(self, engine: CortenEngine) -> None:
        """With a pid namespace of its own an init would not even die of that."""
        with container(engine, "--pid", "host", IMAGE, "sleep", "1000") as pid:
            queue(pid, signal.SIGKILL, -2, 1)  # SI_TIMER, and as from process 1
            found = verdict(engine)
            assert found["Sender"] == "unknown"
            assert "SIGKILL of si_code -2, which names no sender | tracepoint" in claims(found)
            assert f"process {os.getpid()}, uid 0" in claims(found)

    def test_a_forged_number_of_the_sender_is_not_believed(self, engine: CortenEngine) -> None:
        with container(engine, IMAGE, "sleep", "1000") as pid:
            queue(pid, signal.SIGKILL, -1, 1)  # SI_QUEUE, whose si_pid the sender writes
            assert verdict(engine)["Sender"]["Pid"] == os.getpid()

    def test_what_only_looks_like_a_filter_s_kill_is_a_signal(self, engine: CortenEngine) -> None:
        with container(engine, "--pid", "host", IMAGE, "sh", "-c", "sleep 0.3; kill -SYS $$"):
            found = verdict(engine)
            assert (found["Cause"], found["Sender"]["By"]) == ("signal", "itself")


def test_kills_while_cortend_is_dead_are_told_by_the_next(engine: CortenEngine) -> None:
    """Of an init, and of a shim; what goes on is watched by the next one too."""
    with (
        container(engine, IMAGE, "sleep", "1000", name="first") as first,
        container(engine, IMAGE, "sleep", "1000", name="orphan") as orphan,
        container(engine, IMAGE, "sleep", "1000", name="later") as later,
    ):
        shim = int(Path(f"/proc/{orphan}/stat").read_text().rpartition(") ")[2].split()[1])
        record = engine.exec_root / "tasks/moby" / inspected(engine, "first")["Id"] / "exit"
        engine.kill9()
        senders = [kill(first), kill(shim)]
        wait_for(record.exists, "exit record")
        engine.start()
        assert verdict(engine, "first")["Sentence"] == f"killed by SIGKILL from kill (pid {senders[0]}, uid 0)"
        assert verdict(engine, "orphan")["Sentence"].endswith(f"got SIGKILL from kill (pid {senders[1]}, uid 0)")
        last = kill(later)
        assert verdict(engine, "later")["Sentence"] == f"killed by SIGKILL from kill (pid {last}, uid 0)"


def test_the_program_goes_with_the_setting_and_with_the_engine() -> None:
    """It stays with a dead cortend, and no file, mount or program of it is left by the others."""
    engine = CortenEngine(config={"signal-senders": True})
    try:
        name, mount = program(engine), str(engine.exec_root / "senders")
        assert bpfprograms.names().count(name) == 1
        engine.kill9()
        assert bpfprograms.names().count(name) == 1
        engine.start()
        assert bpfprograms.names().count(name) == 1
        assert not Api(engine.socket).ok("GET", "/info")["Warnings"]
        engine.stop()
        engine.config_file.write_text("{}")
        engine.start()
        wait_for(lambda: name not in bpfprograms.names(), "end of the program")
        assert mount not in Path("/proc/self/mountinfo").read_text()
        assert not (engine.exec_root / "senders").exists()
        engine.stop()
        engine.config_file.write_text('{"signal-senders": true}')
        engine.start()
        assert bpfprograms.names().count(name) == 1
        engine.kill9()
        assert doctor(engine) == ""
        engine.config_file.write_text("{}")
        assert doctor(engine) == "program of signal-senders: it is not wanted\n"
        assert doctor(engine, "--fix").endswith("removed: program of signal-senders\n")
        wait_for(lambda: name not in bpfprograms.names(), "end of the program")
        engine.config_file.write_text('{"signal-senders": true}')
        engine.start()
        engine.kill9()
        assert bpfprograms.names().count(name) == 1
    finally:
        assert engine.destroy() == []
    wait_for(lambda: name not in bpfprograms.names(), "end of the program")
    assert mount not in Path("/proc/self/mountinfo").read_text()


def test_without_the_setting_nothing_is_made_and_the_sender_is_unknown(shared_engine: CortenEngine) -> None:
    assert program(shared_engine) not in bpfprograms.names()
    assert not (shared_engine.exec_root / "senders").exists()
    with container(shared_engine, IMAGE, "sleep", "1000", name="unwatched") as pid:
        kill(pid)
        found = verdict(shared_engine, "unwatched")
        assert found["Sender"] == "unknown"
        assert "signal-senders" not in claims(found)
