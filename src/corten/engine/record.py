"""A container's record and its state machine.

    state        start   exit       pause   unpause  restart-wait  remove
    created      running -          -       -        -             removing
    running      -       exited     paused  -        -             -
    paused       -       exited     -       running  -             -
    exited       running -          -       -        restarting    removing
    restarting   running exited(*)  -       -        -             -
    removing     -       -          -       -        -             (gone) or dead
    dead         -       -          -       -        -             removing

(*) a restart that is given up.  `advance` is the one function that looks at the table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from corten.engine import healthcheck
from corten.engine.effective import Effective
from corten.engine.loggedcalls import LoggedCall
from corten.engine.verdict import Verdict
from corten.errors import FailedPrecondition
from corten.spec.docker import EndpointSettings


class Status(enum.StrEnum):
    """What `State.Status` says."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class Move(enum.StrEnum):
    """What happens to a container."""

    START = "start"
    EXIT = "exit"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    AWAIT_RESTART = "restart-wait"
    REMOVE = "remove"
    FAIL_REMOVAL = "fail-removal"


_S, _M = Status, Move
TRANSITIONS: Final[Mapping[tuple[Status, Move], Status]] = {
    (_S.CREATED, _M.START): _S.RUNNING,
    (_S.EXITED, _M.START): _S.RUNNING,
    (_S.RESTARTING, _M.START): _S.RUNNING,
    (_S.RUNNING, _M.EXIT): _S.EXITED,
    (_S.PAUSED, _M.EXIT): _S.EXITED,
    (_S.RESTARTING, _M.EXIT): _S.EXITED,
    (_S.RUNNING, _M.PAUSE): _S.PAUSED,
    (_S.PAUSED, _M.UNPAUSE): _S.RUNNING,
    (_S.EXITED, _M.AWAIT_RESTART): _S.RESTARTING,
    (_S.CREATED, _M.REMOVE): _S.REMOVING,
    (_S.EXITED, _M.REMOVE): _S.REMOVING,
    (_S.DEAD, _M.REMOVE): _S.REMOVING,
    (_S.REMOVING, _M.FAIL_REMOVAL): _S.DEAD,
}


def advance(status: Status, move: Move) -> Status:
    """The state after `move`; raises FailedPrecondition when the table has none."""
    after = TRANSITIONS.get((status, move))
    if after is None:
        raise FailedPrecondition(f"cannot {move} a container that is {status}")
    return after


class HealthEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One probe; times in RFC 3339, exit code -1 for one that was killed or could not be launched."""

    start: str
    end: str
    exit_code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a container's health (`starting`, `healthy`, `unhealthy`), with its last probes.

    `told` is the shim's number of the last change of status that an event was published for.
    """

    status: str = "starting"
    failing_streak: int = 0
    log: list[HealthEntry] = []
    told: int = 0

    def ended(self) -> Health:
        """At an exit: what does not run is not healthy (dockerd's State.Health says the same)."""
        return msgspec.structs.replace(self, status="unhealthy")


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What changes while a container lives.  Times are Unix ns.

    `verdict` is why it ended when that was not its own doing ("shim lost").  `stopped_by_user` keeps
    `unless-stopped` from starting it again.
    """

    status: Status = Status.CREATED
    pid: int = 0
    shim_pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    oom_kills: int = 0  # of this run, as far as events have told of them
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    restart_delay_s: float = 0.0  # of the last restart
    stopped_by_user: bool = False
    verdict: str = ""
    health: Health | None = None  # of one with a check that was started
    calls: tuple[LoggedCall, ...] = ()  # of the run that goes on
    calls_sequence: int = -1  # of the last record among them, in the kernel's log
    death: Verdict | None = None  # on the last run, or the last start that failed; it stays while the next one runs
    is_held: bool = False  # a commit froze it, and whoever finds it frozen for that reason alone thaws it

    @property
    def is_running(self) -> bool:
        """Running or paused: there is a process."""
        return self.status in (Status.RUNNING, Status.PAUSED)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A container's place in its networks; what a bridge gave it is the network's own record.

    networks: ids of its endpoints by name, that of its mode first.  The sandbox's names stay after the end, as dockerd
    shows them.
    """

    networks: dict[str, str] = {}
    sandbox_id: str = ""
    sandbox_key: str = ""

    def left(self) -> Place:
        """The place after the end of a run."""
        return Place(sandbox_id=self.sandbox_id, sandbox_key=self.sandbox_key)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept of a container, in one row of the database."""

    id: str
    name: str  # without the slash
    image_id: str
    image_ref: str
    created_ns: int
    effective: Effective
    state: State = State()
    place: Place = Place()
    cgroup: str = ""
    platform: str = "linux"
    is_unfinished: bool = False  # its volumes are being filled: nobody was told of it yet

    @property
    def labels(self) -> dict[str, str]:
        """Config.Labels."""
        return self.effective.config.labels or {}

    @property
    def joined(self) -> frozenset[str]:
        """The containers whose namespaces it joins, as it names them."""
        host = self.effective.host
        modes = (host.network_mode, host.pid_mode, host.ipc_mode)
        return frozenset(mode.partition(":")[2] for mode in modes if mode.startswith("container:"))

    def fresh_health(self) -> Health | None:
        """At a start: the log of earlier runs stays, as dockerd keeps it.  None for a container without a check."""
        if healthcheck.command(self.effective.config) is None:
            return None
        return Health(log=self.state.health.log if self.state.health is not None else [])

    @property
    def image_ids(self) -> frozenset[str]:
        """The image that it is made of, and those that are mounted in it."""
        return frozenset({self.image_id, *(one.source for one in self.effective.mounts if one.kind == "image")})

    def with_state(self, **changes: Any) -> Record:
        """The same with another state."""
        return msgspec.structs.replace(self, state=msgspec.structs.replace(self.state, **changes))


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """The row's value."""
    return _encoder.encode(record)


def decode(data: bytes) -> Record:
    """The inverse; raises msgspec.DecodeError for what no release wrote."""
    record = _decoder.decode(data)
    return record if b'"endpoints":' in data else _with_one_network(record, data)


class _OneNetwork(msgspec.Struct):
    endpoint: EndpointSettings | None = None


class _OfOneNetwork(msgspec.Struct):
    effective: _OneNetwork


def _with_one_network(record: Record, data: bytes) -> Record:
    """Of a release in which a container had the network of its mode alone."""
    mode = record.effective.host.network_mode
    if mode.startswith("container:"):
        return record
    asked = msgspec.json.decode(data, type=_OfOneNetwork).effective.endpoint or EndpointSettings()
    effective = msgspec.structs.replace(record.effective, endpoints={mode: asked})
    return msgspec.structs.replace(record, effective=effective)
