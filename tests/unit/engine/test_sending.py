"""Signals that Corten did not send: what is said of them, and what is not concluded."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from corten.core.asker import Asker
from corten.engine import senders, sending, verdict
from corten.engine.kernellog import Denied
from corten.engine.senders import Senders, remove
from corten.engine.sending import Sending
from corten.engine.verdict import Kill, Seen, judge
from corten.sys import signalprogram as code


def sent(number: int = 9, **given: Any) -> Sending:
    return Sending(**{"signal": number, "code": 0, "at_ns": 10, "pid": 7, "uid": 1000, "command": "sh", **given})


def seen(**given: Any) -> Seen:
    return Seen(**{"code": 137, "signal": 9, "pid": 40, "is_watched": True, **given})


def test_a_foreign_process_is_the_sender_with_its_evidence() -> None:
    made = judge(seen(sendings=(sent(15, pid=8), sent())))
    assert (made.cause, made.sentence) == ("signal", "killed by SIGKILL from sh (pid 7, uid 1000)")
    told = verdict.to_json(made)["Sender"]
    assert (told["By"], told["Pid"], told["Uid"], told["Command"]) == ("process", 7, 1000, "sh")
    (claim,) = [one for one in made.claims if one.claim == "SIGKILL from sh (pid 7, uid 1000)"]
    assert claim.evidence.startswith("tracepoint signal_generate at 1970-01-01T00:00:00.00000001Z: process 7, uid 1000")
    assert any(one.claim == "SIGTERM from sh (pid 8, uid 1000)" for one in made.claims)


def test_another_signal_than_the_one_that_ended_it_names_nobody() -> None:
    made = judge(seen(sendings=(sent(15),)))
    assert made.sentence == "killed by SIGKILL, sender unknown"
    assert any(one.evidence.endswith("and signal-senders saw none") for one in made.claims)


def test_what_corten_has_sent_goes_before_what_was_seen() -> None:
    kill = Kill(signal=9, at="t", by=Asker(by="client", pid=3, uid=0, command="docker"))
    assert judge(seen(sendings=(sent(),), kills=(kill,))).sentence == "killed by SIGKILL for docker (pid 3, uid 0)"


def test_the_process_that_ran_is_not_accused_of_what_the_kernel_did() -> None:
    made = judge(seen(sendings=(sent(code=0x80),)))
    assert made.sentence == "killed by SIGKILL from the kernel"
    assert verdict.to_json(made)["Sender"] == {"By": "kernel"}
    assert judge(seen(sendings=(sent(),), was_oom_killed=True)).cause == "oom"


def test_a_process_that_ends_itself_is_told_so() -> None:
    made = judge(seen(code=134, signal=6, sendings=(sent(6, code=-6, pid=40),)))
    assert made.sentence == "killed by SIGABRT that it sent to itself"


def test_a_fault_is_one_also_where_the_kernel_logs_none() -> None:
    made = judge(seen(code=139, signal=11, sendings=(sent(11, code=1, pid=40),)))
    assert (made.cause, made.sentence) == ("fault", "killed by SIGSEGV for what it did: si_code 1")
    sent_one = judge(seen(code=139, signal=11, sendings=(sent(11),)))
    assert (sent_one.cause, sent_one.sentence) == ("signal", "killed by SIGSEGV from sh (pid 7, uid 1000)")


def test_what_looks_like_a_filter_s_kill_is_one_with_the_kernels_log_alone() -> None:
    """A process may send itself a SIGSYS with any si_code."""
    made = judge(seen(code=159, signal=31, sendings=(sent(31, code=1, pid=40),)))
    assert (made.cause, made.sentence) == ("fault", "killed by SIGSYS for what it did: si_code 1")
    assert judge(seen(code=159, signal=31, sendings=(sent(31),))).cause == "signal"
    call = Denied(pid=40, name="x", arch=1, number=2)
    assert judge(seen(code=159, signal=31, denied=call, sendings=(sent(31, code=1, pid=40),))).cause == "seccomp"


@pytest.mark.parametrize("number", [-2, -3, -4, -5])
def test_who_ran_when_a_timer_fired_is_not_accused(number: int) -> None:
    made = judge(seen(code=142, signal=14, sendings=(sent(14, code=number),)))
    assert made.sentence == f"killed by SIGALRM of si_code {number}, which names no sender"
    assert verdict.to_json(made)["Sender"] == "unknown"


def test_what_the_kernel_sends_and_what_a_process_pretends_to_itself_are_not_told_apart() -> None:
    made = judge(seen(sendings=(sent(code=0x80, pid=40),)))
    assert made.sentence == "killed by SIGKILL from the kernel or itself"
    assert verdict.to_json(made)["Sender"] == "unknown"


def test_an_exit_after_a_foreign_request_to_end_tells_it() -> None:
    made = judge(seen(code=0, signal=0, sendings=(sent(15), sent(10, pid=9))))
    assert made.sentence == "exited with code 0 after SIGTERM from sh (pid 7, uid 1000)"


def test_a_child_that_its_filter_killed_is_told_beside_the_end() -> None:
    child = sent(31, code=1, pid=41, command="tool")
    call = Denied(pid=41, name="tool", arch=0xC000003E, number=83)
    made = judge(seen(code=5, signal=0, filtered=child, filtered_call=call))
    told = "a process in it was killed by seccomp for system call 83 (arch 0xc000003e) by tool (pid 41)"
    assert made.sentence == f"exited with code 5; {told}"
    silent = judge(seen(code=5, signal=0, filtered=child))
    assert silent.sentence.endswith("a process in it was killed by SIGSYS as from seccomp: tool (pid 41)")


def test_who_killed_a_shim_is_told() -> None:
    made = judge(seen(signal=0, is_lost=True, to_shim=(sent(),)))
    assert made.sentence.endswith("reason are unknown; the shim got SIGKILL from sh (pid 7, uid 1000)")
    assert any(one.claim == "the shim got SIGKILL from sh (pid 7, uid 1000)" for one in made.claims)


def test_a_name_moves_no_cursor() -> None:
    record = code.RECORD.pack(5, 3, 2, 1, 4, 9, -6, b"\033[2J\nx\0rest", 8)
    found = sending.sending(record, 1000)
    assert (found.command, found.at_ns, found.thread, found.pid) == (r"\x1b[2J\nx", 1005, 3, 2)
    assert (found.uid, found.gid, found.signal, found.code, found.cgroup_id) == (1, 4, 9, -6, 8)


def test_without_the_program_nothing_is_seen_and_nothing_fails(tmp_path: Path) -> None:
    none = Senders()
    none.watch(1, 2, cgroup=str(tmp_path))
    none.forget(1)
    none.keep([1], [])
    assert none.seen(1, since_ns=0, until_ns=1 << 62) == ()
    assert none.killed_by_filter(str(tmp_path), since_ns=0, until_ns=1 << 62) is None
    remove(str(tmp_path))


def test_a_kernel_that_refuses_is_told_and_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOTSUP, "cortend is in a pid namespace of its own")

    monkeypatch.setattr(senders, "_check_namespace", refuse)
    none = senders.open_senders(str(tmp_path), "x")
    assert (none.is_active, none.trouble) == (False, "cortend is in a pid namespace of its own")
    assert list(tmp_path.iterdir()) == []


class Lookups:
    """A map of what was seen, with one record of a moment."""

    def __init__(self, at_ns: int) -> None:
        self._record = code.RECORD.pack(at_ns, 3, 3, 0, 0, 9, 0, b"x", 1)

    def lookup(self, key: bytes) -> bytes | None:
        return self._record if code.SEEN_KEY.unpack(key) == (40, 9) else None


@pytest.mark.parametrize(("since_s", "until_s", "count"), [(-5, 5, 1), (-60, -30, 0), (30, 60, 0)])
def test_a_record_of_another_time_is_of_another_process(since_s: int, until_s: int, count: int) -> None:
    second = 10**9
    now = time.time_ns()
    maps: Any = Lookups(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    found = Senders(maps, maps).seen(40, since_ns=now + since_s * second, until_ns=now + until_s * second)
    assert len(found) == count
