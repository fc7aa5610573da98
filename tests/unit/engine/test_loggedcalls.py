"""Audit records of seccomp: what they say, how they are counted, and whose profile has anything logged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corten.engine import verdict
from corten.engine.loggedcalls import MAX_ROWS, LoggedCall, action, added, evidence, is_logging, parse, told
from corten.sys.syscallname import call_name

X86_64 = 0xC000003E
HEAD = "audit: type=1326 audit(1795471399.384:63): auid=4294967295 uid=0 gid=0 ses=4294967295 "


def line(pid: int = 7, comm: str = '"sh"', number: int = 95, code: str = "0x50000") -> str:
    rest = f'exe="/bin/busybox" sig=0 arch=c000003e syscall={number} compat=0 ip=0x47b567 code={code}'
    return f"{HEAD}pid={pid} comm={comm} {rest}"


def rows(*records: str) -> tuple[LoggedCall, ...]:
    found: tuple[LoggedCall, ...] = ()
    for record in records:
        one = parse(record)
        assert one is not None
        found = added(found, one, call_name(one.arch, one.number))
    return found


def test_a_record_is_read_with_its_moment_and_answer() -> None:
    one = parse(line())
    assert one is not None
    assert (one.pid, one.name, one.arch, one.number, one.code) == (7, "sh", X86_64, 95, 0x50000)
    assert one.at_ns == 1_795_471_399_384_000_000


@pytest.mark.parametrize("text", ["audit: type=1300 x", HEAD, line() + " pid=1", "audit: type=1326"])
def test_other_messages_are_none(text: str) -> None:
    assert parse(text) is None


def test_a_name_with_odd_characters_is_shown_and_is_no_field() -> None:
    """The kernel writes it in hex, so a process cannot name itself `x" pid=1`."""
    one = parse(line(comm=b'x" pid=1 \n'.hex().upper()))
    assert one is not None
    assert (one.pid, one.name) == (7, 'x" pid=1 \\n')


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x50000, "refused with an error"),
        (0x7FFC0000, "let through"),
        (0x30000, "refused with SIGSYS"),
        (0x80000000, "process killed"),
        (0, "thread killed"),
        (0x12340000, "answered 0x12340000"),
    ],
)
def test_an_answer_has_words(code: int, words: str) -> None:
    assert action(code) == words


def test_records_of_one_call_and_answer_are_one_row() -> None:
    (first, second) = rows(line(), line(pid=8), line(code="0x7ffc0000"))
    assert (first.call, first.count, first.pid) == ("umask", 2, 8)
    assert told(first) == (
        "system call umask (95, arch 0xc000003e) refused with an error: 2 records, "
        "from 2026-11-23T22:03:19.384Z to 2026-11-23T22:03:19.384Z"
    )
    assert evidence(first) == "kernel log: audit type 1326, code=0x50000; the last by sh (pid 8)"
    assert (second.count, second.action) == (1, "let through")


def test_what_is_kept_has_a_bound() -> None:
    found = rows(*(line(number=number) for number in range(2 * MAX_ROWS)), line(number=0))
    assert len(found) == MAX_ROWS + 1
    assert (found[-1].call, found[-1].count) == ("others", MAX_ROWS)
    assert found[0].count == 2
    assert told(found[-1]).startswith(f"other system calls logged: {MAX_ROWS} records")


def test_a_number_without_a_name_is_told_by_number() -> None:
    assert call_name(X86_64, 99999) == ""
    assert "system call without a name (99999, arch" in told(rows(line(number=99999))[0])


def test_a_verdict_has_them_as_claims() -> None:
    made = verdict.judge(verdict.Seen(code=0, signal=0, calls=rows(line())))
    assert made.sentence == "exited with code 0"
    assert [one.claim for one in made.claims if "umask" in one.claim] == [told(made.calls[0])]
    assert verdict.to_json(made)["Calls"][0]["Call"] == "umask"
    assert "Calls" not in verdict.to_json(verdict.judge(verdict.Seen(code=0, signal=0)))


@pytest.mark.parametrize(
    ("profile", "logs"),
    [
        ("", False),
        ("unconfined", False),
        ({"defaultAction": "SCMP_ACT_ALLOW"}, False),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}, True),
        ({"defaultAction": "SCMP_ACT_LOG"}, True),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_LOG"}]}, True),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_KILL"}]}, False),
        ("{", False),
    ],
)
def test_a_profile_that_has_something_logged(profile: Any, logs: bool) -> None:
    assert is_logging(profile if isinstance(profile, str) else json.dumps(profile)) is logs
