"""The verdict on a run: how it ended, who asked for that, and the evidence for each claim (docs/why.md).

A verdict is made once, at the end, from what was seen: the wait status, the shim's record of signals, the kernel's
counters and its log.  Nothing is concluded from an exit code; what was not seen is `unknown`.
"""

from __future__ import annotations

import errno as numbers
import signal as signals
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from corten.core.asker import Asker
from corten.engine import loggedcalls
from corten.engine.kernellog import Denied, OomKill
from corten.engine.loggedcalls import LoggedCall
from corten.engine.sending import Sending, last_of
from corten.errors import CortenError

Json = dict[str, Any]

UNKNOWN: Final = "unknown"
SIGKILL: Final = 9
SIGSYS: Final = 31
FAULTS: Final = frozenset({4, 5, 7, 8, 11})  # SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV
RAISED: Final = FAULTS | {SIGSYS}
ASKING: Final = frozenset({1, 2, 3, 15})  # to end: SIGHUP, SIGINT, SIGQUIT, SIGTERM
EXITED, SIGNALLED, OOM, SECCOMP, FAULT = "exited", "signal", "oom", "seccomp", "fault"
NOT_STARTED, SHIM_LOST = "not-started", "shim-lost"


class Kill(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A signal that Corten sent to the init, and for whom."""

    signal: int
    at: str
    by: Asker


class Memory(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The memory cgroup at the end; bytes, -1 for no limit or not known.  victims: those that the log names."""

    oom_kills: int
    limit: int = -1
    peak: int = -1
    victims: tuple[OomKill, ...] = ()


class Processes(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The pids cgroup at the end: forks that its limit refused.  -1: no limit, or not known."""

    refused: int
    limit: int = -1
    peak: int = -1


class Failure(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Where a start has failed.  phase: the engine's; op, path, errno: the runtime's step, where it tells one."""

    phase: str
    text: str
    op: str = ""
    path: str = ""
    errno: str = ""


class Disk(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The file system of the container's layer, when it had no room left at the end."""

    path: str
    free_bytes: int
    free_inodes: int


class Claim(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Something that is said, and by what it is known."""

    claim: str
    evidence: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One end of a run.  signal: 0 when it exited by itself; sender: None where nobody was seen to send it."""

    cause: str
    sentence: str
    exit_code: int = 0
    signal: int = 0
    at: str = ""
    sender: Asker | None = None
    kills: tuple[Kill, ...] = ()
    memory: Memory | None = None
    processes: Processes | None = None
    failure: Failure | None = None
    denied: Denied | None = None
    disk: Disk | None = None
    calls: tuple[LoggedCall, ...] = ()
    claims: tuple[Claim, ...] = ()


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an end, as it was found.

    pid: the init's; was_oom_killed: the kernel's log names it.
    """

    code: int
    signal: int
    at: str = ""
    pid: int = 0
    is_lost: bool = False
    kills: tuple[Kill, ...] = ()
    memory: Memory | None = None
    processes: Processes | None = None
    denied: Denied | None = None
    disk: Disk | None = None
    calls: tuple[LoggedCall, ...] = ()  # that its filter has logged
    was_oom_killed: bool = False
    fault: str = ""  # what the kernel's log says of the init's
    probe: str = ""  # what the last health probe said, when a failing check ended it
    is_watched: bool = False  # by engine.senders, as far as that goes
    sendings: tuple[Sending, ...] = ()  # to the init, but for the shim's own, oldest first
    to_shim: tuple[Sending, ...] = ()
    shim_pid: int = 0
    filtered: Sending | None = None  # the last other process that got SIGSYS as from its seccomp filter
    filtered_call: Denied | None = None


def kills_of(recorded: Any) -> tuple[Kill, ...]:
    """The `kills` of a shim's exit record; what no release wrote is left out."""
    found = []
    for one in recorded if isinstance(recorded, (list, tuple)) else ():
        try:
            found.append(msgspec.convert({"Signal": one["signal"], "At": one["at"], "By": one["by"]}, Kill))
        except (msgspec.ValidationError, KeyError, TypeError):
            continue
    return tuple(found)


def judge(seen: Seen) -> Verdict:
    """The verdict on a run that had begun."""
    sender = _sender(seen)
    cause = _cause(seen)
    return Verdict(
        cause=cause,
        sentence="; ".join([_first(seen, cause, sender), *_beside(seen, cause)]),
        exit_code=seen.code,
        signal=seen.signal,
        at=seen.at,
        sender=_asker(seen, sender) if cause == SIGNALLED else None,
        kills=seen.kills,
        memory=seen.memory,
        processes=seen.processes,
        denied=seen.denied,
        disk=seen.disk,
        calls=seen.calls,
        claims=tuple(_claims(seen, cause, sender)),
    )


def judge_failure(failure: Failure, code: int, at: str) -> Verdict:
    """The verdict on a start that failed."""
    where = f" at {failure.path}" if failure.path and failure.path not in failure.text else ""
    claims = [Claim(claim=f"the start failed in step {failure.phase}", evidence=f"error: {failure.text}")]
    if failure.op:
        claims.append(Claim(claim=f"{failure.op}: {failure.errno}", evidence="the launcher's report (step, errno)"))
    elif not failure.path:
        claims.append(Claim(claim=f"path: {UNKNOWN}", evidence="the error names no step of a plan"))
    return Verdict(
        cause=NOT_STARTED, sentence=f"not started{where}: {failure.text}", exit_code=code, at=at, failure=failure,
        claims=tuple(claims),
    )  # fmt: skip


def failure_of(phase: str, error: CortenError | OSError) -> Failure:
    """What the error of a start tells of the step that failed: the runtime's evidence, or the kernel's own error."""
    if isinstance(error, OSError):
        path, number = str(error.filename or ""), errno_name(error.errno or 0)
        return Failure(phase=phase, text=str(error.strerror or error), path=path, errno=number)
    cause: BaseException | None = error
    passed: list[BaseException] = []
    while cause is not None and cause not in passed:  # an undo that fails as well may have closed the circle
        passed.append(cause)
        evidence = getattr(cause, "evidence", None)
        if evidence:
            number = evidence.get("errno")
            return Failure(
                phase=phase,
                text=error.text,
                op=str(evidence.get("op", "")),
                path=str(evidence.get("path", "")),
                errno=errno_name(number if isinstance(number, int) else 0),
            )
        cause = cause.__cause__
    return Failure(phase=phase, text=error.text)


def _cause(seen: Seen) -> str:
    if seen.is_lost:
        return SHIM_LOST
    if not seen.signal:
        return EXITED
    if seen.was_oom_killed and seen.signal == SIGKILL:
        return OOM
    if seen.denied is not None and seen.signal == SIGSYS:
        return SECCOMP
    foreign = _foreign(seen)
    is_raised = foreign is not None and foreign.is_raised_for(seen.pid) and seen.signal in RAISED
    return FAULT if is_raised or (seen.fault and seen.signal in FAULTS and _sender(seen) is None) else SIGNALLED


def _sender(seen: Seen) -> Kill | None:
    """The last signal of this number that Corten has sent."""
    if not seen.signal or seen.was_oom_killed:
        return None
    return next((kill for kill in reversed(seen.kills) if kill.signal == seen.signal), None)


def _foreign(seen: Seen) -> Sending | None:
    """The signal of this number that the tracepoint saw, where Corten has sent none."""
    if not seen.signal or seen.was_oom_killed or _sender(seen) is not None:
        return None
    return last_of(seen.sendings, seen.signal)


def _asker(seen: Seen, sender: Kill | None) -> Asker | None:
    if sender is not None:
        return sender.by
    foreign = _foreign(seen)
    return foreign.asker(seen.pid) if foreign is not None else None


def _first(seen: Seen, cause: str, sender: Kill | None) -> str:
    name = signal_name(seen.signal)
    match cause:
        case "shim-lost":
            return f"its shim was lost: exit code and reason are unknown{_to_shim(seen)}"
        case "exited":
            return _exited(seen)
        case "oom":
            return f"killed by the kernel for want of memory{_limit(seen)}"
        case "fault":
            return f"killed by {name} for what it did: {seen.fault or _si_code(seen)}"
        case "seccomp" if seen.denied is not None:
            return f"killed by seccomp for system call {call_name(seen.denied)}"
    foreign = _foreign(seen)
    if foreign is not None:
        return f"killed by {name} {foreign.sent_by(seen.pid)}"
    if sender is None:
        return f"killed by {name}, sender unknown"
    return f"killed by {name} for {sender.by.text}{_operation(sender.by)}"


def _exited(seen: Seen) -> str:
    text = f"exited with code {seen.code}"
    if not seen.kills:
        last_seen = next((one for one in reversed(seen.sendings) if one.signal in ASKING), None)
        if last_seen is None:
            return text
        return f"{text} after {signal_name(last_seen.signal)} {last_seen.sent_by(seen.pid)}"
    last = seen.kills[-1]
    return f"{text} after {signal_name(last.signal)} for {last.by.text}{_operation(last.by)}"


def _to_shim(seen: Seen) -> str:
    if not seen.to_shim:
        return ""
    last = seen.to_shim[-1]
    return f"; the shim got {signal_name(last.signal)} {last.sent_by(seen.shim_pid)}"


def _si_code(seen: Seen) -> str:
    foreign = _foreign(seen)
    return f"si_code {foreign.code}" if foreign is not None else UNKNOWN


def _limit(seen: Seen) -> str:
    memory = seen.memory
    victim = next((one for one in memory.victims if one.pid == seen.pid), None) if memory is not None else None
    if memory is None or victim is None:
        return ""
    if not victim.limit_cgroup:
        return ": the machine had none left"
    return f" at the limit of {memory.limit} bytes" if memory.limit > 0 else f" at the limit of {victim.limit_cgroup}"


def _beside(seen: Seen, cause: str) -> list[str]:
    """What happened in it as well."""
    out = []
    memory = seen.memory
    if memory is not None and memory.oom_kills and (cause != OOM or memory.oom_kills > 1):
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in memory.victims)
        which = names if len(memory.victims) >= memory.oom_kills else ", ".join(filter(None, (names, "others unknown")))
        out.append(f"processes killed for want of memory: {memory.oom_kills}: {which if names else UNKNOWN}")
    if seen.processes is not None and seen.processes.refused:
        out.append(f"processes refused at the limit of {seen.processes.limit}: {seen.processes.refused}")
    if seen.filtered is not None:
        out.append(_filtered(seen.filtered, seen.filtered_call))
    if seen.disk is not None:
        out.append(f"its disk was full at the end: {seen.disk.free_bytes} bytes, {seen.disk.free_inodes} files left")
    return out


def _claims(seen: Seen, cause: str, sender: Kill | None) -> list[Claim]:
    claims = [_end_claim(seen)]
    if cause == SIGNALLED:
        claims.append(_sender_claim(seen, sender))
    claims += [
        Claim(claim=f"{signal_name(kill.signal)} was sent at {kill.at}", evidence=f"record of the kill: {kill.by.text}")
        for kill in seen.kills
    ]
    return claims + _seen_claims(seen, cause) + _memory_claims(seen) + _other_claims(seen)


def _seen_claims(seen: Seen, cause: str) -> list[Claim]:
    """What the tracepoint saw, but for the sender of the last one, which has been told."""
    told = _foreign(seen) if cause == SIGNALLED else None
    claims = [
        Claim(claim=f"{signal_name(one.signal)} {one.sent_by(seen.pid)}", evidence=one.evidence)
        for one in seen.sendings
        if one is not told
    ]
    return claims + [
        Claim(claim=f"the shim got {signal_name(one.signal)} {one.sent_by(seen.shim_pid)}", evidence=one.evidence)
        for one in seen.to_shim
        if seen.is_lost
    ]


def _end_claim(seen: Seen) -> Claim:
    if seen.is_lost:
        return Claim(claim=f"exit code {UNKNOWN}; {seen.code} stands for it", evidence="no exit record of the shim")
    if not seen.signal:
        return Claim(claim=f"exited with code {seen.code}", evidence="waitid of the shim: CLD_EXITED")
    return Claim(claim=f"ended by {signal_name(seen.signal)}", evidence="waitid of the shim: CLD_KILLED or CLD_DUMPED")


def _sender_claim(seen: Seen, sender: Kill | None) -> Claim:
    name = signal_name(seen.signal)
    if sender is not None:
        evidence = f"{name} was sent through the shim at {sender.at}, the end came at {seen.at}"
        return Claim(claim=f"sent for {sender.by.text}{_operation(sender.by)}", evidence=evidence)
    foreign = _foreign(seen)
    if foreign is not None:
        return Claim(claim=f"{name} {foreign.sent_by(seen.pid)}", evidence=foreign.evidence)
    watched = ", and signal-senders saw none" if seen.is_watched else ""
    return Claim(claim=f"sender: {UNKNOWN}", evidence=f"no {name} was sent by Corten in this run{watched}")


def _filtered(child: Sending, call: Denied | None) -> str:
    """A process can send itself the same signal: that it was the filter says the kernel's log alone."""
    if call is not None:
        return f"a process in it was killed by seccomp for system call {call_name(call)}"
    return f"a process in it was killed by SIGSYS as from seccomp: {child.command} (pid {child.pid})"


def _memory_claims(seen: Seen) -> list[Claim]:
    memory = seen.memory
    if memory is None:
        return []
    counted = f"counter oom_kill of the container's own cgroup: 0 before the start, {memory.oom_kills} at the end"
    claims = [Claim(claim=f"killed for want of memory: {memory.oom_kills}", evidence=counted)]
    if memory.peak >= 0:
        text = f"peak {memory.peak} bytes, limit {memory.limit if memory.limit >= 0 else 'none'}"
        claims.append(Claim(claim=text, evidence="the container's memory cgroup at the end"))
    for one in memory.victims:
        whose = f"limit of {one.limit_cgroup}" if one.limit_cgroup else "memory of the machine"
        said = f"kernel log, record {one.sequence}: {whose}"
        claims.append(Claim(claim=f"the kernel killed {one.name} (pid {one.pid}, uid {one.uid})", evidence=said))
    if len(memory.victims) < memory.oom_kills:
        missing = memory.oom_kills - len(memory.victims)
        claims.append(Claim(claim=f"which processes: {UNKNOWN} for {missing}", evidence="not in the kernel log"))
    return claims


def _other_claims(seen: Seen) -> list[Claim]:
    claims = []
    if seen.processes is not None:
        refused = f"counter max of the pids cgroup: 0 before the start, {seen.processes.refused} at the end"
        claims.append(Claim(claim=f"processes refused at the limit of {seen.processes.limit}", evidence=refused))
    if seen.denied is not None:
        claims.append(Claim(claim=f"system call {call_name(seen.denied)}", evidence="kernel log: audit type 1326"))
    elif seen.signal == SIGSYS:
        claims.append(Claim(claim=f"system call: {UNKNOWN}", evidence="not in the kernel log"))
    if seen.filtered is not None:
        logged = "kernel log: audit type 1326" if seen.filtered_call else "the kernel's log has no audit record of it"
        told = _filtered(seen.filtered, seen.filtered_call)
        claims.append(Claim(claim=f"{told} (the last one)", evidence=f"{seen.filtered.evidence}; {logged}"))
    if seen.fault:
        claims.append(Claim(claim=f"a fault: {seen.fault}", evidence=f"kernel log, of pid {seen.pid}"))
    if seen.probe:
        claims.append(Claim(claim=f"the health check failed: {seen.probe}", evidence="its last probe (State.Health)"))
    claims += [Claim(claim=loggedcalls.told(row), evidence=loggedcalls.evidence(row)) for row in seen.calls]
    if seen.disk is not None:
        claims.append(Claim(claim=f"{seen.disk.path} was full", evidence="statvfs at the end"))
    return claims


def signal_name(number: int) -> str:
    """SIGKILL; `signal 40` for one without a name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def errno_name(number: int) -> str:
    """ENOENT; the number for one without a name, "" for 0."""
    return numbers.errorcode.get(number, str(number)) if number else ""


def call_name(denied: Denied) -> str:
    """The number of a system call, and where it counts."""
    return f"{denied.number} (arch {denied.arch:#x}) by {denied.name} (pid {denied.pid})"


def _operation(by: Asker) -> str:
    return f": {by.operation}" if by.operation else ""


def to_json(verdict: Verdict) -> Json:
    """For inspect and `corten why`: an unknown sender of a signal is the word `unknown`."""
    out: Json = {name: value for name, value in msgspec.to_builtins(verdict).items() if value not in (None, [], ())}
    if verdict.cause == SIGNALLED and verdict.sender is None:
        out["Sender"] = UNKNOWN
    return out


def victims_among(found: Sequence[OomKill], counted: int, *, after: int) -> tuple[OomKill, ...]:
    """Those of this run: the last `counted`, behind the log's record `after` (the last one of the run before)."""
    fresh = [one for one in found if one.sequence > after]
    return tuple(fresh[-counted:]) if counted > 0 else ()
