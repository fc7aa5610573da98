"""Every path of the Docker API and what serves it.

A path that dockerd knows and Corten does not is answered 501 with the operation's name, so that nobody
takes it for a typing mistake; a path that nobody knows is dockerd's "page not found".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from corten import errors
from corten.docker import archives, containers, copy, images, networks, registries, system, volumes, websocket
from corten.docker.call import Call

Operation = Callable[[Call], Awaitable[web.StreamResponse]]

SERVED: tuple[tuple[str, str, Operation], ...] = (
    ("HEAD", "/_ping", system.ping),
    ("GET", "/_ping", system.ping),
    ("GET", "/version", system.version),
    ("GET", "/info", system.info),
    ("GET", "/events", system.events),
    ("GET", "/system/df", system.disk_usage),
    ("POST", "/auth", system.auth),
    ("GET", "/networks", networks.list_all),
    ("GET", "/networks/", networks.list_all),
    ("GET", "/networks/{}", networks.inspect),
    ("GET", "/volumes", volumes.list_all),
    ("GET", "/volumes/{}", volumes.inspect),
    ("POST", "/volumes/create", volumes.create),
    ("PUT", "/volumes/{}", volumes.update),
    ("DELETE", "/volumes/{}", volumes.remove),
    ("GET", "/plugins", system.plugins),
    ("GET", "/containers/json", containers.list_all),
    ("GET", "/containers/{}/json", containers.inspect),
    ("GET", "/containers/{}/top", containers.top),
    ("GET", "/containers/{}/logs", containers.logs),
    ("GET", "/containers/{}/attach/ws", websocket.attach),
    ("GET", "/containers/{}/stats", containers.stats),
    ("GET", "/containers/{}/export", archives.export),
    ("HEAD", "/containers/{}/archive", copy.stat),
    ("GET", "/containers/{}/archive", copy.archive),
    ("PUT", "/containers/{}/archive", copy.extract),
    ("POST", "/commit", archives.commit),
    ("GET", "/containers/{}/changes", archives.changes),
    ("GET", "/containers/{}/corten/trace", containers.trace),
    ("GET", "/containers/{}/corten/why", containers.why),
    ("POST", "/containers/{}/corten/ports", containers.ports),
    ("POST", "/corten/explain", containers.explain),
    ("POST", "/containers/create", containers.create),
    ("POST", "/containers/prune", containers.prune),
    ("POST", "/containers/{}/start", containers.start),
    ("POST", "/containers/{}/stop", containers.stop),
    ("POST", "/containers/{}/restart", containers.restart),
    ("POST", "/containers/{}/kill", containers.kill),
    ("POST", "/containers/{}/pause", containers.pause),
    ("POST", "/containers/{}/unpause", containers.unpause),
    ("POST", "/containers/{}/rename", containers.rename),
    ("POST", "/containers/{}/resize", containers.resize),
    ("POST", "/containers/{}/update", containers.update),
    ("POST", "/containers/{}/wait", containers.wait),
    ("POST", "/containers/{}/exec", containers.exec_create),
    ("DELETE", "/containers/{}", containers.remove),
    ("POST", "/exec/{}/resize", containers.exec_resize),
    ("GET", "/exec/{}/json", containers.exec_inspect),
    ("GET", "/images/json", images.list_all),
    ("GET", "/images/{}/json", images.inspect),
    ("GET", "/images/{}/history", images.history),
    ("POST", "/images/create", images.create),
    ("POST", "/images/load", images.load),
    ("POST", "/images/prune", images.prune),
    ("POST", "/networks/prune", networks.prune),
    ("POST", "/networks/create", networks.create),
    ("POST", "/networks/{}/connect", networks.connect),
    ("POST", "/networks/{}/disconnect", networks.disconnect),
    ("DELETE", "/networks/{}", networks.remove),
    ("POST", "/volumes/prune", volumes.prune),
    ("POST", "/build/prune", system.build_prune),
    ("POST", "/images/{}/tag", images.tag),
    ("POST", "/images/{}/corten/mount", images.mount),
    ("GET", "/corten/mounts", images.mounts),
    ("POST", "/corten/unmount", images.unmount),
    ("POST", "/images/{}/push", registries.push),
    ("GET", "/distribution/{}/json", registries.distribution),
    ("GET", "/images/get", archives.save),
    ("GET", "/images/{}/get", archives.save),
)

# What dockerd serves and Corten does not yet: (method, path, the operation in words).
UNSUPPORTED: tuple[tuple[str, str, str], ...] = (
    ("GET", "/containers/{}/checkpoints", "checkpoint list"),
    ("POST", "/containers/{}/checkpoints", "checkpoint create"),
    ("DELETE", "/containers/{}/checkpoints/{}", "checkpoint remove"),
    ("GET", "/images/search", "image search"),
    ("POST", "/build", "image build"),
    ("POST", "/build/cancel", "build cancel"),
    ("POST", "/session", "build session"),
    ("POST", "/grpc", "build over gRPC"),
    ("GET", "/plugins/privileges", "plugin privileges"),
    ("GET", "/plugins/{}/json", "plugin inspect"),
    ("POST", "/plugins/pull", "plugin install"),
    ("POST", "/plugins/create", "plugin create"),
    ("POST", "/plugins/{}/enable", "plugin enable"),
    ("POST", "/plugins/{}/disable", "plugin disable"),
    ("POST", "/plugins/{}/upgrade", "plugin upgrade"),
    ("POST", "/plugins/{}/push", "plugin push"),
    ("POST", "/plugins/{}/set", "plugin set"),
    ("DELETE", "/plugins/{}", "plugin remove"),
    ("GET", "/swarm", "swarm inspect"),
    ("POST", "/swarm/init", "swarm init"),
    ("POST", "/swarm/join", "swarm join"),
    ("POST", "/swarm/leave", "swarm leave"),
    ("POST", "/swarm/update", "swarm update"),
    ("GET", "/swarm/unlockkey", "swarm unlock key"),
    ("POST", "/swarm/unlock", "swarm unlock"),
    *(
        entry
        for noun in ("node", "service", "secret", "config")
        for entry in (
            ("GET", f"/{noun}s", f"{noun} list"),
            ("POST", f"/{noun}s/create", f"{noun} create"),
            ("GET", f"/{noun}s/{{}}", f"{noun} inspect"),
            ("POST", f"/{noun}s/{{}}/update", f"{noun} update"),
            ("DELETE", f"/{noun}s/{{}}", f"{noun} remove"),
        )
        if entry[1] != "/nodes/create"
    ),
    ("GET", "/services/{}/logs", "service logs"),
    ("GET", "/tasks", "task list"),
    ("GET", "/tasks/{}", "task inspect"),
    ("GET", "/tasks/{}/logs", "task logs"),
    ("GET", "/debug/vars", "debug variables"),
    ("GET", "/debug/pprof/{}", "debug profiles"),
)
# Tried last: a name with slashes in it would hide the paths above.
LAST: tuple[tuple[str, str, Operation], ...] = (("DELETE", "/images/{}", images.remove),)


# What a node without a swarm answers; to make or join one is not supported.
_SWARM: Final = frozenset({"swarm", "nodes", "services", "tasks", "secrets", "configs"})
_WITH_A_SWARM: Final = frozenset({"/swarm/init", "/swarm/join"})


def _refusal(path: str, name: str) -> errors.CortenError:
    """What dockerd says where there is no swarm, else that it is not supported yet."""
    if path == "/swarm/leave":
        return errors.Unavailable("This node is not part of a swarm")
    if path.split("/")[1] in _SWARM and path not in _WITH_A_SWARM:
        return errors.Unavailable(volumes.NOT_A_MANAGER)
    return errors.NotImplemented(f"{name} is not supported yet")


def _unsupported(path: str, name: str) -> Operation:
    async def refuse(call: Call) -> web.StreamResponse:
        raise _refusal(path, name)

    return refuse


class Router:
    """Finds an operation by method and path (without its version)."""

    def __init__(self) -> None:
        self._exact: dict[tuple[str, str], Operation] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Operation]]] = {}
        unsupported = tuple((method, path, _unsupported(path, name)) for method, path, name in UNSUPPORTED)
        for method, path, operation in SERVED + unsupported + LAST:
            self._add(method, path, operation)

    def _add(self, method: str, path: str, operation: Operation) -> None:
        if "{}" not in path:
            self._exact[method, path] = operation
            return
        pattern = re.compile(re.escape(path).replace(r"\{\}", "(.+)"), re.DOTALL)
        self._patterns.setdefault((method, path.split("/")[1]), []).append((pattern, operation))

    def find(self, method: str, path: str) -> tuple[Operation, tuple[str, ...]] | None:
        """The operation and the variable parts of the path; None is dockerd's "page not found"."""
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact, ()
        if method == "OPTIONS":
            return system.options, ()
        first = path.split("/", 2)[1] if path.startswith("/") else ""
        for pattern, operation in self._patterns.get((method, first), ()):
            found = pattern.fullmatch(path)
            if found:
                return operation, found.groups()
        return None
