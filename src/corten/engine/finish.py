"""The end of a run: what a shim tells, what is recorded, what is cleaned up, whether it begins again.

    exit told or shim lost → network given back → one transaction: it has exited → waiters and events
                           → restart policy, or cleanup in the background, or removal (--rm) and cleanup

Cleanup is in reverse order of the start and never waited for by the client; a new start waits for it.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.core import asker
from corten.engine import kernellog, times, witness
from corten.engine import verdict as verdicts
from corten.engine.attachments import Attachments, port_name
from corten.engine.container import EXIT_CONDITIONS, Container
from corten.engine.events import container_event, die_event
from corten.engine.looks import NoAnswer
from corten.engine.naming import Naming
from corten.engine.parts import Parts
from corten.engine.record import Move, Record, Status, advance
from corten.engine.restart import should_restart
from corten.engine.sending import Sending
from corten.engine.sharedmemory import SharedMemory
from corten.engine.tasks import Task
from corten.engine.verdict import Kill, Verdict
from corten.errors import CortenError, Unavailable
from corten.shim.ending import read_exit_record
from corten.shim.logfile import is_written

log = logging.getLogger("corten.engine")

SHIM_LOST: Final = "shim lost"
LOST_EXIT_CODE: Final = 137
TRACE_NAME: Final = "trace.json"


class Exit(msgspec.Struct, frozen=True):
    """How a run ended.  Times are Unix ns; `verdict` is SHIM_LOST when nobody saw it.

    signal: that ended the init, 0 when it exited; pid: the init's; kills: as in the shim's exit record.
    """

    code: int
    at_ns: int
    oom_killed: bool = False
    verdict: str = ""
    started_ns: int = 0
    health_action: str = ""  # that brought it about
    signal: int = 0
    pid: int = 0
    oom_kills: int = 0
    pids_refused: int = 0
    kills: tuple[Kill, ...] = ()


def exit_of(message: dict[str, Any]) -> Exit:
    """From the shim's event or its exit record."""
    oom_kills, pids_refused = witness.counters(message)
    return Exit(
        code=int(message["status"]),
        at_ns=times.from_rfc3339(message["at"]),
        oom_killed=bool(message["oom_killed"]),
        verdict=str(message.get("reason", "")),
        health_action=str(message.get("health_action", "")),
        signal=int(message.get("signal", 0)),
        pid=int(message.get("pid", 0)),
        oom_kills=oom_kills,
        pids_refused=pids_refused,
        kills=verdicts.kills_of(message.get("kills")),
    )


class Finisher:
    """Handles exits."""

    def __init__(self, parts: Parts, shared_memory: SharedMemory) -> None:
        self._parts = parts
        self._shared_memory = shared_memory
        self._attachments = Attachments(parts)
        self.naming: Naming | None = None  # given by the engine
        self.restarts_wait = False  # while the engine recovers: its policies start what is RESTARTING then
        # given by the services that this is a part of, before the first event
        self.start_again: Callable[[Container], Awaitable[None]]
        self.remove: Callable[[Container], None]
        self.exec_exited: Callable[[Container, dict[str, Any]], None]
        self.container_ended: Callable[[Container], None]
        self.health_told: Callable[[Container, dict[str, Any]], None]
        self.before_verdict: Callable[[Container], None] = _nobody
        self.tell_volumes: Callable[[Container], None] = _nobody  # of the end
        self.release_volumes: Callable[[Container], Awaitable[None]]

    # What shims tell

    def told(self, container: Container, task: Task, message: dict[str, Any]) -> None:
        """An event of a container's shim."""
        asker.set_engine()  # the reading of its socket began with the request that started it
        match message.get("event"):
            case "exit":
                self._parts.run_later(self.finish(container, task, exit_of(message)))
            case "exec-exit":
                self.exec_exited(container, message)
            case "health" | "health-probe" | "health-action":
                self.health_told(container, message)
            case "oom":
                self.tell_oom(container, int(message.get("oom_kill_count", 0)))
            case "detach" if not message.get("exec_id"):
                self._parts.bus.publish(container_event(container.record, "detach"))
            case "detach":
                attributes = {"execID": str(message["exec_id"])}
                self._parts.bus.publish(container_event(container.record, "exec_detach", **attributes))

    def tell_oom(self, container: Container, kills: int) -> None:
        """The event, unless it was told already: an earlier cortend may have been dead when it happened."""
        if kills > container.record.state.oom_kills:
            self._parts.note(container, container.record.with_state(oom_kills=kills))
            self._parts.bus.publish(container_event(container.record, "oom", oomKills=str(kills)))

    def lost(self, container: Container, task: Task) -> None:
        """A shim's connection has ended though nobody ended it."""
        asker.set_engine()
        if task.shim is not None:
            self._parts.run_later(self._bury(container, task))

    async def _bury(self, container: Container, task: Task) -> None:
        """Kill what the shim left, then finish: with its exit record when it had written one."""
        log.warning("shim of container %s is lost", container.id)
        await self._parts.tasks.kill(task)
        await self.finish(container, task, self.verdict(container, task))

    def verdict(self, container: Container, task: Task) -> Exit:
        """How a container ended whose shim cannot say: by its exit record, else `shim lost`.  Mends its log."""
        recorded = read_exit_record(task.directory)
        try:
            if (place := self._parts.log_place(container)) is not None and not is_written(place.path):
                place.mend(place.path)
        except OSError as error:  # the end is told all the same
            log.warning("the log of container %s is not mended: %s", container.id, error)
        if recorded is not None:
            return exit_of(recorded)
        return Exit(LOST_EXIT_CODE, times.now_ns(), verdict=SHIM_LOST)

    # The end

    async def finish(self, container: Container, task: Task, how: Exit) -> None:
        """Record an exit and do what follows from it.  A second report of the same run does nothing.

        A record that cannot be saved (a full disk) is tried again until it can: nobody else tells of this exit.
        """
        judged: list[Verdict] = []
        while (error := await self._try_to_finish(container, task, how, judged)) is not None:
            await self._parts.retries.wait(f"the exit of container {container.id} cannot be recorded", error)

    async def _try_to_finish(
        self, container: Container, task: Task, how: Exit, judged: list[Verdict]
    ) -> Unavailable | OSError | None:
        """Why the record could not be saved; nothing but the network was touched then.

        judged: the verdict of the first try, for a disk that was full at the end is not at the last.
        """
        async with container.lock:
            if container.task is not task or not container.is_running:
                return None
            networks = container.record.place.networks
            if not judged:
                judged.append(await self._judge(container, task, how))
            verdict, watched = judged[0], self.watched(container)
            await self._leave_network(container, task)
            backoff = copy.copy(container.backoff)
            restart_delay_s = self._restart_delay(container, how)
            try:
                self._parts.save(container, self._exited(container, how, verdict, restart_delay_s))
            except (Unavailable, OSError) as error:
                container.backoff = backoff
                return error
            container.task = None
            pids, cgroup = watched
            self._parts.senders.forget(*pids, cgroup=cgroup)
            self.container_ended(container)
            self._attachments.tell(container, "disconnect", networks)
            self.tell_volumes(container)
            self._tell(container, how, verdict)
            container.cleanup = self._parts.run_later(self.clean_up(container, task))
            if restart_delay_s is not None:
                self._schedule(container, restart_delay_s)
            elif container.record.effective.host.auto_remove:
                self.remove(container)
        return None

    async def _judge(self, container: Container, task: Task, how: Exit) -> Verdict:
        """While the cgroup is there; what cannot be read any more is `unknown`."""
        self.before_verdict(container)
        state, signal = container.record.state, how.signal
        cgroup = self._parts.tasks.cgroup(task.cgroup_path) if how.oom_kills or how.pids_refused else None
        sent, to_shim, filtered = self._sendings(container, how)
        wants_log = how.oom_kills or signal == verdicts.SIGSYS or signal in verdicts.FAULTS or filtered is not None
        found = await witness.kernel_log(task.cgroup_path, state.started_ns) if wants_log else kernellog.Log()
        memory = witness.memory(cgroup, how.oom_kills) if cgroup is not None and how.oom_kills else None
        seen = verdicts.Seen(
            code=how.code,
            signal=signal,
            at=times.rfc3339(how.at_ns),
            pid=how.pid,
            is_lost=how.verdict == SHIM_LOST,
            kills=how.kills or verdicts.kills_of(container.kills),
            memory=witness.with_victims(memory, found, state.death) if memory is not None else None,
            processes=witness.processes(cgroup, how.pids_refused) if cgroup is not None and how.pids_refused else None,
            denied=witness.denied_call(found, how.pid) if signal == verdicts.SIGSYS else None,
            disk=witness.full_disk(self._parts.paths(container.id).directory) if how.code else None,
            was_oom_killed=how.pid > 0 and how.pid in found.killed,
            fault=found.faults.get(how.pid, ""),
            calls=state.calls,
            probe=witness.last_probe(state.health.log) if how.health_action and state.health is not None else "",
            is_watched=self._parts.senders.is_active,
            sendings=sent,
            to_shim=to_shim,
            shim_pid=state.shim_pid,
            filtered=filtered,
            filtered_call=witness.denied_call(found, filtered.pid) if filtered is not None else None,
        )
        return verdicts.judge(seen)

    def watched(self, container: Container) -> tuple[tuple[int, int], str]:
        """Whose signals are recorded: pids of init and shim, directory of the v2 cgroup; nobody's: 0, 0 and ""."""
        if not self._parts.senders.is_active:
            return (0, 0), ""
        state = container.record.state
        return (state.pid, state.shim_pid), self._parts.tasks.cgroup(container.record.cgroup).paths.v2

    def _sendings(
        self, container: Container, how: Exit
    ) -> tuple[tuple[Sending, ...], tuple[Sending, ...], Sending | None]:
        """What was sent to init and shim, and the last other process that got SIGSYS as from seccomp."""
        senders = self._parts.senders
        (pid, shim_pid), cgroup = self.watched(container)
        times_of = {"since_ns": container.record.state.started_ns, "until_ns": how.at_ns}
        filtered = senders.killed_by_filter(cgroup, **times_of)
        sent = tuple(one for one in senders.seen(pid, **times_of) if one.pid != shim_pid)
        return sent, senders.seen(shim_pid, **times_of), filtered if filtered and filtered.pid != pid else None

    def _exited(self, container: Container, how: Exit, verdict: Verdict, restart_delay_s: float | None) -> Record:
        health = container.record.state.health
        record = container.record.with_state(
            status=advance(container.record.state.status, Move.EXIT),
            pid=0,
            shim_pid=0,
            exit_code=how.code,
            oom_killed=how.oom_killed,
            oom_kills=0,
            calls=(),
            finished_ns=how.at_ns,
            verdict=how.verdict,
            error=how.verdict,
            health=health.ended() if health is not None else None,
            death=verdict,
        )
        if how.health_action == "stop":
            record = record.with_state(stopped_by_user=True)
        if restart_delay_s is not None:
            record = record.with_state(
                status=advance(record.state.status, Move.AWAIT_RESTART),
                restart_count=record.state.restart_count + 1,
                restart_delay_s=restart_delay_s,
            )
        return replace(record, place=record.place.left())

    def _tell(self, container: Container, how: Exit, verdict: Verdict) -> None:
        """Waiters first: `stop` comes before `die` among the events, as dockerd has it."""
        container.resolve_waiters(*EXIT_CONDITIONS)
        event = die_event(container.record, how.code, how.at_ns, verdict.sentence)
        self._parts.publish_after_waiters(event)

    async def _leave_network(self, container: Container, task: Task) -> None:
        """Ports and address are free before anybody hears of the exit; what fails here does not hide the exit."""
        try:
            if container.publications and task.shim is not None:
                with contextlib.suppress(Unavailable):  # its sockets end with it
                    await task.shim.release([port_name(one) for one in container.publications])
            self._attachments.leave(container)
            if self.naming is not None:
                await self.naming.end(container)
        except (CortenError, OSError):
            log.exception("container %s: network is left to recovery", container.id)
        container.endpoints.clear()

    # Again

    def _restart_delay(self, container: Container, how: Exit) -> float | None:
        """Seconds until the policy's next start; None when there is none."""
        policy = container.record.effective.host.restart_policy
        if container.is_stopping or container.record.state.stopped_by_user or how.health_action == "stop":
            return None
        restarts = container.record.state.restart_count
        wanted = should_restart(policy, how.code, restarts=restarts, stopped_by_user=False)
        if not wanted and how.health_action != "restart":
            return None
        ran_s = (how.at_ns - container.record.state.started_ns) / times.SECOND_NS
        return container.backoff.next_delay(ran_s)

    def _schedule(self, container: Container, delay_s: float) -> None:
        if self.restarts_wait:
            return
        container.restart_timer = self._parts.loop.call_later(delay_s, self._restart_now, container)

    def wait_out(self, container: Container) -> bool:
        """Whether the delay before its next start is not over yet; it goes on, whoever began it."""
        state = container.record.state
        if state.status is not Status.RESTARTING or container.restart_timer is not None:
            return False
        left_s = state.restart_delay_s - (times.now_ns() - state.finished_ns) / times.SECOND_NS
        if not 0 < left_s <= state.restart_delay_s:  # over, or the clock was set
            return False
        self._schedule(container, left_s)
        return True

    def _restart_now(self, container: Container) -> None:
        container.restart_timer = None
        self._parts.run_later(self._restart(container))

    async def _restart(self, container: Container) -> None:
        async with container.lock:
            if container.record.state.status is not Status.RESTARTING:
                return
            try:
                await self.start_again(container)
            except CortenError as error:
                log.warning("restart of container %s failed: %s", container.id, error)
                self.not_started(container, error)

    def not_started(self, container: Container, error: CortenError) -> None:
        """A start that the policy made has failed; the caller holds the lock.

        What waits for a file system (a disk that spins up, NFS at boot) is tried again, as after an exit, and so is
        what joins a container that waits; everything else is given up.
        """
        if not isinstance(error, NoAnswer) and not self._waits_for_another(container):
            self.give_up(container)
            return
        status = container.record.state.status
        if status is Status.EXITED:
            self._parts.note(container, container.record.with_state(status=advance(status, Move.AWAIT_RESTART)))
        self._schedule(container, container.backoff.next_delay(0.0))

    def _waits_for_another(self, container: Container) -> bool:
        """Whether it joins namespaces of a container that is to be started again, and was not at its turn."""
        roster = self._parts.roster
        for ref in container.record.joined:
            with contextlib.suppress(CortenError):  # a name of nobody, or of many
                if roster.find(ref).record.state.status is Status.RESTARTING:
                    return True
        return False

    def give_up(self, container: Container) -> None:
        """No further restart; the caller holds the lock."""
        if container.restart_timer is not None:
            container.restart_timer.cancel()
            container.restart_timer = None
        state = container.record.state
        if state.status is Status.RESTARTING:
            self._parts.note(container, container.record.with_state(status=advance(state.status, Move.EXIT)))
            container.resolve_waiters(*EXIT_CONDITIONS)
            if container.record.effective.host.auto_remove:
                self.remove(container)

    # Cleanup

    async def clean_up(self, container: Container, task: Task) -> None:
        """Of a run whose end is recorded.

        What fails here is logged by who waits for background work; the next start buries what is left.
        """
        try:
            await self._keep_trace(container, task)
            self._shared_memory.release(task)
            await self._parts.tasks.end(task)
            await self.release_volumes(container)
        finally:
            container.cleanup = None

    async def _keep_trace(self, container: Container, task: Task) -> None:
        """The steps of the last start outlive its task, for `corten trace`."""
        try:
            with open(f"{task.directory}/trace", "rb") as file:
                recorded = msgspec.json.decode(file.read())
        except (OSError, msgspec.DecodeError):
            if task.shim is None:
                return
            try:  # it ended before its trace was written: the shim waits for that
                recorded = await task.shim.trace()
            except CortenError:
                return
        recorded["phases"] = [*container.phases, *recorded.get("phases", ())]
        try:
            with open(f"{self._parts.paths(container.id).directory}/{TRACE_NAME}", "wb") as file:
                file.write(msgspec.json.encode(recorded))
        except FileNotFoundError:
            return  # the container was removed with its run
        except OSError as error:
            log.warning("container %s: the trace of its start is not kept: %s", container.id, error)


def _nobody(container: Container) -> None:
    """Where nobody asked to hear of ends."""
