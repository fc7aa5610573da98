"""What is said of an end, for what was seen: every claim has its evidence, the rest is unknown."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from corten.core.asker import Asker
from corten.engine import kernellog, verdict, why
from corten.engine.kernellog import Denied, Log, OomKill
from corten.engine.record import HealthEntry
from corten.engine.verdict import Disk, Failure, Kill, Memory, Processes, Seen, failure_of, judge
from corten.engine.witness import denied_call, full_disk, last_probe, with_victims
from corten.errors import Internal, InvalidArgument, Unavailable
from corten.shim import protocol

CGROUP = "/corten-1/" + "a" * 64
CLIENT = Asker(by="client", operation="POST /containers/x/kill", pid=12, uid=1000, gid=5, command="docker")
KILLED = Kill(signal=9, at="2026-01-01T00:00:00Z", by=CLIENT)
VICTIM = OomKill(sequence=7, pid=40, name="tail", uid=0, limit_cgroup=CGROUP)


def seen(**given: Any) -> Seen:
    return Seen(**{"code": 137, "signal": 9, "pid": 40, **given})


def test_137_by_itself_is_an_exit_and_nothing_else() -> None:
    made = judge(seen(signal=0))
    assert (made.cause, made.sentence, made.sender) == ("exited", "exited with code 137", None)
    assert [one.evidence for one in made.claims] == ["waitid of the shim: CLD_EXITED"]


def test_a_signal_that_nobody_was_seen_to_send_has_an_unknown_sender() -> None:
    made = judge(seen(kills=(Kill(signal=15, at="t", by=CLIENT),)))
    assert made.sentence == "killed by SIGKILL, sender unknown"
    assert verdict.to_json(made)["Sender"] == "unknown"


def test_a_signal_that_was_sent_has_its_client_and_operation() -> None:
    made = judge(seen(kills=(KILLED,)))
    assert made.sentence == "killed by SIGKILL for docker (pid 12, uid 1000): POST /containers/x/kill"
    assert verdict.to_json(made)["Sender"]["Uid"] == 1000


def test_kills_of_others_do_not_make_it_the_kernels_victim() -> None:
    memory = Memory(oom_kills=1, limit=1 << 20, peak=1 << 20)
    made = judge(seen(memory=memory))
    assert made.cause == "signal"
    assert made.sentence == "killed by SIGKILL, sender unknown; processes killed for want of memory: 1: unknown"
    assert any(one.claim == "which processes: unknown for 1" for one in made.claims)


def test_the_kernels_log_makes_it_the_kernels_victim() -> None:
    memory = Memory(oom_kills=1, limit=1 << 20, peak=1 << 20, victims=(VICTIM,))
    made = judge(seen(memory=memory, was_oom_killed=True, kills=(KILLED,)))
    assert (made.cause, made.sender) == ("oom", None)
    assert made.sentence == f"killed by the kernel for want of memory at the limit of {1 << 20} bytes"


def test_refused_processes_and_a_full_disk_are_told_beside_the_end() -> None:
    made = judge(
        seen(
            signal=0,
            code=1,
            processes=Processes(refused=3, limit=10),
            disk=Disk(path="/d", free_bytes=0, free_inodes=9),
        )
    )
    beside = "processes refused at the limit of 10: 3; its disk was full at the end: 0 bytes, 9 files left"
    assert made.sentence == f"exited with code 1; {beside}"


def test_seccomp_is_told_only_with_a_record() -> None:
    made = judge(seen(signal=31, code=159, denied=Denied(pid=40, name="sh", arch=0xC000003E, number=83)))
    assert (made.cause, made.sentence) == (
        "seccomp", "killed by seccomp for system call 83 (arch 0xc000003e) by sh (pid 40)",
    )  # fmt: skip
    silent = judge(seen(signal=31, code=159))
    assert silent.cause == "signal"
    assert any(one.claim == "system call: unknown" for one in silent.claims)


def test_what_a_lost_shim_has_seen_is_unknown() -> None:
    made = judge(seen(signal=0, is_lost=True))
    assert made.cause == "shim-lost"
    assert made.claims[0].claim == "exit code unknown; 137 stands for it"


def test_the_failed_step_of_a_start_crosses_two_processes() -> None:
    error = Internal("mount x: no such file")
    error.evidence = {"op": "mount x on /y", "path": "/y", "errno": errno.ENOENT}
    with pytest.raises(Internal) as caught:
        protocol.raise_failure(protocol.failure(error))
    told = InvalidArgument("failed to create")
    told.__cause__ = caught.value
    failure = failure_of("create", told)
    assert (failure.phase, failure.op, failure.path, failure.errno) == ("create", "mount x on /y", "/y", "ENOENT")
    made = verdict.judge_failure(failure, 127, "t")
    assert made.sentence == "not started at /y: failed to create"


def test_an_error_of_the_kernel_names_its_path() -> None:
    failure = failure_of("files", OSError(errno.ENOSPC, "no space", "/data/x"))
    assert (failure.path, failure.errno) == ("/data/x", "ENOSPC")
    assert "path: unknown" in str(verdict.judge_failure(Failure(phase="look", text="x"), 128, "t").claims)


def test_kills_that_no_release_wrote_are_left_out() -> None:
    by = {"By": "client", "Pid": 3, "Later": 1}
    good = {"signal": 9, "at": "t", "by": by}
    found = verdict.kills_of([good, {}, 7, {"signal": "x", "at": "t", "by": by}])
    assert [(one.signal, one.by.pid) for one in found] == [(9, 3)]
    assert verdict.kills_of(None) == ()


OOM_LINE = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={cpuset},mems_allowed=0,oom_memcg={limit},"
    "task_memcg={cgroup},task={name},pid={pid},uid={uid}"
)


def line(sequence: int, **given: Any) -> tuple[int, int, str]:
    values = {"cpuset": "c", "limit": CGROUP, "cgroup": CGROUP, "name": "tail", "pid": 40, "uid": 0} | given
    return sequence, 1000 + sequence, OOM_LINE.format(**values)


def test_the_kernels_log_is_read_for_one_cgroup_and_those_below() -> None:
    lines = [
        line(1, cgroup=f"{CGROUP}/inner", pid=41),
        line(2, cgroup=f"{CGROUP}b", pid=42),
        line(3, limit="/", name="a,pid=1,uid=0"),
        (4, 2000, "Memory cgroup out of memory: Killed process 40 (tail) total-vm:1kB"),
        (5, 2000, line(5, limit="/", name="g", pid=43)[2].replace("oom_memcg=/", "global_oom")),
        (6, 2000, "eth0: link up"),
    ]  # fmt: skip
    found = kernellog.find(iter(lines), CGROUP, since_us=0)
    assert [(one.pid, one.name, one.limit_cgroup) for one in found.kills] == [
        (41, "tail", CGROUP), (40, "a,pid=1,uid=0", "/"), (43, "g", ""),
    ]  # fmt: skip
    assert found.killed == {40}
    assert kernellog.find(iter(lines), CGROUP, since_us=3000) == Log()


def test_a_denied_call_is_read_with_its_process() -> None:
    text = (
        'audit: type=1326 audit(1795446973.1:9): auid=4294967295 uid=0 gid=0 ses=4294967295 subj=unconfined pid=40 '
        'comm="sh" exe="/bin/busybox" sig=31 arch=c000003e syscall=83 compat=0 ip=0x7f code=0x80000000'
    )  # fmt: skip
    found = kernellog.find(iter([(1, 1, text)]), CGROUP, since_us=0)
    assert found.denied == (Denied(pid=40, name="sh", arch=0xC000003E, number=83),)
    assert denied_call(found, 40) == found.denied[0]
    assert denied_call(found, 41) is None


def test_a_fault_is_read_with_its_process_whatever_that_is_called() -> None:
    lines = [
        "crash[40]: segfault at 0 ip 0000000000401136 sp 7ffd error 6 in x[41]: segfault at 1 ip[401000+1000] on 0",
        "traps: x[1]: segfaul[42] general protection fault ip:401136 sp:7ffd error:0 in x[401000+1000]",
        "usb 1-1: new device [43]",
    ]  # fmt: skip
    found = kernellog.find(iter([(n, 1, text) for n, text in enumerate(lines)]), CGROUP, since_us=0)
    assert sorted(found.faults) == [40, 42]
    assert found.faults[40].startswith("segfault at 0 ip 0000000000401136 ")
    assert found.faults[42].startswith("general protection fault ip:401136 ")


def test_a_fault_is_told_unless_the_signal_was_sent() -> None:
    made = judge(seen(signal=11, code=139, fault="segfault at 0 ip 40"))
    assert (made.cause, made.sentence) == ("fault", "killed by SIGSEGV for what it did: segfault at 0 ip 40")
    assert judge(seen(signal=9, fault="segfault at 0 ip 40")).cause == "signal"
    asked = (Kill(signal=11, at="t", by=CLIENT),)
    assert judge(seen(signal=11, fault="segfault at 0 ip 40", kills=asked)).cause == "signal"


def test_the_last_failing_probe_is_told() -> None:
    entries = [
        HealthEntry(start="", end="", exit_code=code, output=text) for code, text in ((1, "a"), (7, "b\n"), (0, ""))
    ]
    assert last_probe(entries) == "exit code 7: b"
    assert last_probe(entries[2:]) == ""
    made = judge(seen(probe="exit code 7: b"))
    assert made.claims[-1].claim == "the health check failed: exit code 7: b"


def test_victims_are_those_of_this_run() -> None:
    """The counter says how many; what the verdict before has named is not named again."""
    kills = tuple(OomKill(sequence=n, pid=n, name="x", uid=0, limit_cgroup="") for n in (1, 2, 3))
    assert with_victims(Memory(oom_kills=2), Log(kills), None).victims == kills[1:]
    before = judge(seen(memory=Memory(oom_kills=1, victims=kills[1:2])))
    assert with_victims(Memory(oom_kills=2), Log(kills), before).victims == kills[2:]


def test_a_disk_with_room_is_no_evidence() -> None:
    assert full_disk("/no/such/folder") is None
    assert full_disk("/proc") is not None  # it has no blocks at all


def test_frames_of_a_log_are_joined() -> None:
    assert why.joined(b"\1\0\0\0\0\0\0\2ab\2\0\0\0\0\0\0\1c\1\0\0") == b"abc"


def test_an_error_that_is_the_cause_of_its_own_cause_has_an_end() -> None:
    first, second = Unavailable("no room"), Unavailable("no room either")
    first.__cause__, second.__cause__ = second, first
    assert failure_of("record", first) == Failure(phase="record", text="no room")
