"""What the docker door asks of an engine: the one interface between the two.

Values are JSON-able objects of Docker's API 1.51; the door trims or extends them for older versions.
`ref` is a container's name, full id or unique prefix of it.  Every method raises `corten.errors` with
Docker's texts.  Methods that return an iterator validate their arguments before the first value, and are
closed (`aclose`) when the client goes away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from corten.registry.credentials import AuthConfig, Credentials
from corten.spec.docker import (
    ContainerConfig,
    ContainerCreateRequest,
    ContainerUpdateRequest,
    EndpointSettings,
    ExecConfig,
    NetworkCreateRequest,
    PortsRequest,
)
from corten.spec.image import Platform
from corten.spec.reference import Reference

Json = dict[str, Any]
Filters = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """Which streams of a container's init a client wants, and whether the log so far comes first.

    `is_raw`: without headers that tell stdout from stderr.
    """

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stream: bool = False
    logs: bool = False
    detach_keys: str = ""
    is_raw: bool = False


@dataclass(frozen=True, slots=True)
class LogOptions:
    """`since` and `until` are Docker's timestamps as text, `tail` is a number, "all" or empty."""

    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    since: str = ""
    until: str = ""
    timestamps: bool = False
    tail: str = ""
    details: bool = False


class ClientStream(Protocol):
    """A hijacked client connection.

    Life: the door makes it; the engine calls `write_head` once the hand-over is sure to work, then `detach_fd`.
    An engine that has to hold it for a while (attach before start) asks for `on_hangup`, and may `close` it.
    Nothing is read from the socket meanwhile: what the client sends waits in the kernel.
    """

    @property
    def initial(self) -> bytes:
        """Bytes that came behind the request: the first of stdin."""

    def fileno(self) -> int:
        """The socket, which stays the event loop's and does not block.  Raises OSError when the client is gone."""

    def write_head(self) -> None:
        """Write the 101 or 200 straight to the socket.  The second call does nothing."""

    def detach_fd(self) -> int:
        """Take the socket from the event loop without shutting it down; the caller owns the descriptor."""

    def on_hangup(self, callback: Callable[[], None]) -> None:
        """Have `callback` run in the event loop, once, when the client has closed its end altogether."""

    def close(self) -> None:
        """Close the connection, unless it was detached."""


class Waiter(Protocol):
    """A registered wait: made before the answer's head is sent, so that no exit is missed."""

    async def result(self) -> Json:
        """`{"StatusCode": n}`, with `"Error": {"Message": text}` when the wait itself failed."""


class LogStream(Protocol):
    """A container's log, from the first line asked for to the last, or on and on."""

    @property
    def tty(self) -> bool:
        """Whether the bytes are raw; else they come with Docker's 8-byte headers.  Valid after `open`."""

    async def open(self) -> None:
        """Check the container and the options.  Raises NotFound, InvalidArgument, NotImplemented."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Engine(Protocol):
    """The engine as seen from the door."""

    # system
    async def version(self) -> Json: ...
    async def info(self) -> Json: ...
    async def login(self, config: AuthConfig) -> Json: ...
    def events(self, filters: Filters, since: str, until: str) -> AsyncIterator[Json]: ...

    # containers
    async def container_create(self, request: ContainerCreateRequest, name: str, platform: str) -> Json: ...
    async def container_explain(self, request: ContainerCreateRequest, name: str) -> Json: ...
    async def container_trace(self, ref: str) -> Json: ...
    async def container_why(self, ref: str) -> Json: ...
    async def container_ports(self, ref: str, request: PortsRequest) -> Json: ...
    async def container_start(self, ref: str, detach_keys: str = "") -> None: ...
    async def container_stop(self, ref: str, signal: str = "", timeout_s: int | None = None) -> None: ...
    async def container_restart(self, ref: str, signal: str = "", timeout_s: int | None = None) -> None: ...
    async def container_kill(self, ref: str, signal: str = "SIGKILL") -> None: ...
    async def container_pause(self, ref: str) -> None: ...
    async def container_unpause(self, ref: str) -> None: ...
    async def container_wait(self, ref: str, condition: str) -> Waiter: ...
    async def attach_check(self, ref: str, options: AttachOptions) -> bool:
        """Whether the container has a tty.  Raises before any head is written."""
        ...

    async def container_attach(self, ref: str, options: AttachOptions, stream: ClientStream) -> None:
        """Register the stream, then write its head: a client takes the head as leave to start the container."""
        ...

    async def container_resize(self, ref: str, rows: int, cols: int) -> None: ...
    def container_logs(self, ref: str, options: LogOptions) -> LogStream: ...
    async def container_inspect(self, ref: str, size: bool = False) -> Json: ...
    async def container_list(self, all: bool, limit: int, size: bool, filters: Filters) -> list[Json]: ...
    async def log_usage(self) -> Mapping[str, int]:
        """Bytes on disk of each container's log, by full id."""
        ...

    async def container_top(self, ref: str, ps_args: str) -> Json: ...
    async def container_rename(self, ref: str, name: str) -> None: ...
    async def container_remove(self, ref: str, force: bool, volumes: bool, link: bool) -> None: ...
    async def container_prune(self, filters: Filters, dry_run: bool = False) -> Json: ...
    async def container_update(self, ref: str, request: ContainerUpdateRequest) -> Json: ...
    async def container_stats(self, ref: str, one_shot: bool) -> Json:
        """One sample, `precpu_stats` at zero; the door makes the stream."""
        ...

    async def container_commit(
        self,
        ref: str,
        repo: str,
        tag: str,
        *,
        comment: str,
        author: str,
        pause: bool,
        changes: Sequence[str],
        config: ContainerConfig | None,
    ) -> Json: ...
    async def container_changes(self, ref: str) -> list[Json] | None: ...
    def container_export(self, ref: str) -> AsyncIterator[bytes]: ...
    async def container_path_stat(self, ref: str, path: str) -> Json: ...
    def container_archive(self, ref: str, path: str) -> AsyncIterator[bytes]:
        """The first piece is the stat of the path, as JSON."""
        ...

    async def container_extract(
        self, ref: str, path: str, body: AsyncIterator[bytes], *, keeps_kinds: bool, copies_owner: bool
    ) -> None: ...

    # exec
    async def exec_create(self, ref: str, request: ExecConfig) -> Json: ...
    async def exec_check(self, exec_id: str, tty: bool) -> bool:
        """Whether the exec has a tty.  Raises NotFound, Conflict before any head is written."""
        ...

    async def exec_start(
        self, exec_id: str, detach: bool, console_size: tuple[int, int] | None, stream: ClientStream | None
    ) -> None: ...
    async def exec_resize(self, exec_id: str, rows: int, cols: int) -> None: ...
    async def exec_inspect(self, exec_id: str) -> Json: ...

    # images
    def image_pull(self, name: str, tag: str, platform: str, credentials: Credentials) -> AsyncIterator[Json]: ...
    def image_load(self, body: AsyncIterator[bytes], quiet: bool, platform: Platform | None) -> AsyncIterator[Json]: ...
    def image_import_url(
        self, url: str, repo: str, tag: str, message: str, changes: Sequence[str], platform: str
    ) -> AsyncIterator[Json]: ...
    def image_import(
        self,
        body: AsyncIterator[bytes],
        repo: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> AsyncIterator[Json]: ...
    async def image_list(self, all: bool, filters: Filters, shared_size: bool, manifests: bool) -> list[Json]: ...
    async def image_inspect(self, ref: str, platform: Platform | None = None, manifests: bool = False) -> Json: ...
    async def image_history(self, ref: str, platform: Platform | None = None) -> list[Json]: ...
    async def image_usage(self) -> Json:
        """`{"Images": rows, "LayersSize": bytes, "ContentSize": bytes}`."""
        ...

    async def image_tag(self, ref: str, repo: str, tag: str) -> None: ...
    async def image_remove(
        self, ref: str, force: bool, noprune: bool, platforms: Sequence[Platform] = ()
    ) -> list[Json]: ...
    async def image_prune(self, filters: Filters, dry_run: bool = False, leaving: Collection[str] = ()) -> Json: ...
    async def image_mount(self, ref: str, target: str, platform: Platform | None) -> Json: ...
    async def image_mounts(self) -> list[Json]: ...
    async def image_unmount(self, wanted: str) -> list[Json]: ...
    def image_push(
        self, name: Reference, credentials: Credentials, platform: Platform | None
    ) -> AsyncIterator[Json]: ...
    async def distribution(self, ref: str, credentials: Credentials) -> Json: ...
    def image_save(self, names: Sequence[str], platform: Platform | None) -> AsyncIterator[bytes]: ...

    # volumes
    async def volume_create(
        self, name: str, driver: str, options: Mapping[str, str] | None, labels: Mapping[str, str] | None
    ) -> Json: ...
    async def volume_list(self, wanted: Filters) -> Json: ...
    async def volume_inspect(self, name: str) -> Json: ...
    async def volume_remove(self, name: str, force: bool) -> None: ...
    async def volume_update(self, name: str) -> None: ...
    async def volume_prune(self, wanted: Filters, dry_run: bool = False, leaving: Collection[str] = ()) -> Json: ...
    async def volume_usage(self) -> list[Json]:
        """Volumes with their `UsageData`."""
        ...

    # networks
    async def network_list(self, filters: Filters) -> list[Json]: ...
    async def network_inspect(self, ref: str) -> Json: ...
    async def network_create(self, request: NetworkCreateRequest) -> Json: ...
    async def network_remove(self, ref: str) -> None: ...
    async def network_connect(self, ref: str, container: str, settings: EndpointSettings | None) -> None: ...
    async def network_disconnect(self, ref: str, container: str, force: bool = False) -> None: ...
    async def network_prune(self, wanted: Filters, dry_run: bool = False) -> Json: ...
