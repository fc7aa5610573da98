"""The program `cortend`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from corten import __version__
from corten.core.events import Event
from corten.daemon import (
    activation,
    arguments,
    config,
    destroy,
    doctor,
    keys,
    leaving,
    legacy,
    listeners,
    preflight,
    remap,
    shimplace,
    tls,
    told,
    wiring,
)
from corten.docker import authz
from corten.docker.authz import Authorization
from corten.docker.metricsdoor import MetricsDoor
from corten.docker.server import Door
from corten.docker.versions import version_of
from corten.engine import policies
from corten.engine.engine import Engine
from corten.engine.parts import Parts
from corten.engine.policies import Policies
from corten.engine.policyfiles import PolicyFile
from corten.engine.settings import Settings
from corten.engine.threads import in_own_thread
from corten.errors import CortenError, InvalidArgument
from corten.sys import openfiles

log = logging.getLogger("corten.daemon")

_CLOSE_S = 10.0
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(argv: list[str]) -> int:
    """`argv` with the program's name first; the exit status."""
    try:
        given, secured = arguments.parse(argv[1:]), None
        files: tuple[PolicyFile, ...] = ()
        path = given.config or config.DEFAULT_FILE
        settings = _settings(given, path)
        if not given.destroy:  # which needs no container's defaults
            settings = config.with_node(settings, config.node_defaults(given.node_defaults))
            secured = tls.context_of(settings)
            files = config.policy_files(settings)
        if given.validate or (settings.validate and not (given.destroy or given.doctor)):
            asyncio.run(policies.check(files))
            sys.stderr.write("configuration OK\n")
            return 0
        _set_up_logging(settings)
        if given.destroy:
            return destroy.run(settings)
        if given.doctor:
            return doctor.run(told.heard(settings, path), fix=given.fix)
        if settings.authorization_plugins:
            asyncio.run(authz.check(settings.authorization_plugins))
        preflight.check(settings)
        for text in legacy.warnings(settings):
            log.warning("%s", text)
        settings = remap.applied(settings)
        asyncio.run(Daemon(argv[0], (path, given.node_defaults), settings, arguments.flags(given)).run(secured, files))
    except CortenError as error:
        sys.stderr.write(f"cortend: {error.text}\n")
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"cortend: {place}{(error.strerror or str(error)).lower()}\n")
        return 1
    return 0


def _settings(given: argparse.Namespace, path: str) -> Settings:
    """From file and flags.  `--destroy` needs the file for the roots alone: flags for both do without it."""
    flags = arguments.flags(given)
    try:
        file = config.load(path, is_required=given.config is not None)
        return config.settings(path, file, flags)
    except CortenError as error:
        if not given.destroy or not {"data-root", "exec-root"} <= set(flags):
            raise
        sys.stderr.write(f"cortend: {error.text}: ignored\n")
        return config.settings(path, {}, flags)


def _set_up_logging(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(keys.JsonLines() if settings.log_format == "json" else logging.Formatter(_FORMAT))
    logging.basicConfig(handlers=[handler])
    _set_level(settings)


def _set_level(settings: Settings) -> None:
    logging.getLogger("corten").setLevel(logging.DEBUG if settings.debug else keys.LEVELS[settings.log_level])


class Daemon:
    """One run of cortend: from the lock to the last background work."""

    def __init__(self, program: str, files: tuple[str, str], settings: Settings, flags: dict[str, object]) -> None:
        self._program = program
        self._config_path, self._node_path = files
        self._settings = settings
        self._flags = flags
        self._open_files = -1  # the limit that was ours and is our children's
        self._stopped = asyncio.Event()
        self._reloads = asyncio.Lock()  # one at a time
        self._handed = activation.take()
        self._manager = activation.Notifier()
        self._secured: ssl.SSLContext | None = None  # of tcp:// sockets
        self._authorization = Authorization()

    async def run(self, secured: ssl.SSLContext | None, files: Sequence[PolicyFile] = ()) -> None:
        """Until SIGTERM or SIGINT.  Containers go on.  `secured` is for tcp:// sockets."""
        os.umask(0o022)
        faulthandler.enable()  # what hung is told when the service manager's watchdog ends us
        self._secured = secured
        self._open_files = openfiles.take_all()
        pool = leaving.set_up_pool()
        asked = Policies(files, exec_root=self._settings.exec_root)
        await asked.load()
        await self._authorization.load(self._settings.authorization_plugins)
        stores = wiring.open_stores(self._settings)
        try:
            with self._pidfile():
                await self._serve(stores, asked)
        except BaseException:
            stores.close()
            raise
        await leaving.leave(stores, pool)

    async def _serve(self, stores: wiring.Stores, asked: Policies) -> None:
        parts = wiring.make_parts(self._settings, stores, self._program, open_files=self._open_files)
        parts.policies = asked
        told.tell(self._settings, self._config_path)
        listening = [one for host in self._settings.hosts for one in _listen(self._settings, host, self._handed)]
        numbers = _listen_for_metrics(self._settings)
        zygote = asyncio.create_task(parts.tasks.zygote.start())  # with its cgroup, when nothing is refused any more
        engine = Engine(parts, stores.database, stores.content, stores.facts)
        await engine.recover()
        await zygote
        door = Door(
            engine,
            version=__version__,
            is_cgroup2=parts.machine.cgroup_mode == "v2",
            is_experimental=self._settings.experimental,
            oldest=version_of(self._settings.min_api_version),
            authorization=self._authorization,
        )
        for one in listening:
            await (door.serve(one) if one.family == socket.AF_UNIX else door.serve(one, tls=lambda: self._secured))
        metrics = MetricsDoor(engine)
        if numbers is not None:
            await metrics.serve(numbers)
        self._catch_signals(parts)
        log.info("Corten %s, engine %s, listening on %s", __version__, parts.engine_id, ", ".join(self._settings.hosts))
        attending = asyncio.create_task(engine.attend())
        pids = [one.record.state.shim_pid for one in parts.roster if one.task is not None]
        parts.run_later(in_own_thread("shims", partial(shimplace.take_in, stores.facts, parts.engine_id, pids)))
        self._manager.ready()
        self._manager.watch(asyncio.get_running_loop())
        await self._stopped.wait()
        self._manager.tell("STOPPING=1")
        attending.cancel()
        for host in self._settings.hosts:
            listeners.unlink(host)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await metrics.close()
                await door.close()
                await engine.close()
                parts.policies.close()
                await self._authorization.close()
                parts.user_namespaces.close()
                await parts.tasks.close()
        except TimeoutError:
            log.warning("not everything is closed after %g s", _CLOSE_S)

    @contextlib.contextmanager
    def _pidfile(self) -> Iterator[None]:
        path = self._settings.pidfile
        if not path:
            yield
            return
        with open(path, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _catch_signals(self, parts: Parts) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload, parts)

    def _reload(self, parts: Parts) -> None:
        parts.run_later(self._reload_soon(parts))

    async def _reload_soon(self, parts: Parts) -> None:
        async with self._reloads:
            self._manager.reloading()
            await self._take_over(parts)
            self._manager.ready()

    async def _take_over(self, parts: Parts) -> None:
        """A file that cannot be read leaves everything as it was; connections that are open stay."""
        path = self._config_path
        try:
            file = config.load(path, is_required=False)
            after = config.settings(path, file, self._flags)
            after = config.with_node(after, config.node_defaults(self._node_path))
            settings = config.reloaded(parts.settings, after)
            secured = tls.context_of(settings)
            asked = Policies(config.policy_files(settings), exec_root=settings.exec_root)
            await asked.load()
            await self._authorization.load(settings.authorization_plugins)
        except CortenError as error:
            log.warning("configuration not reloaded: %s", error)
            return
        parts.policies.close()
        parts.settings, parts.policies, self._secured = settings, asked, secured
        _set_level(parts.settings)
        told.tell(parts.settings, path)
        text = config.shown(parts.settings)
        log.info("Reloaded configuration: %s", text)
        more = config.event_attributes(parts.settings)
        attributes = {**more, "name": parts.machine.hostname, "configuration": text}
        parts.bus.publish(Event(type="daemon", action="reload", id=parts.engine_id, attributes=attributes))


def _listen_for_metrics(settings: Settings) -> socket.socket | None:
    address = settings.metrics_addr
    try:
        return listeners.metrics(address) if address else None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(f"{config.named(settings, 'metrics-addr')} {address}: {reason}") from error


def _listen(settings: Settings, host: str, handed: Sequence[activation.Handed]) -> list[socket.socket]:
    try:
        if host.startswith(listeners.FD):
            return activation.listeners(host.removeprefix(listeners.FD), handed)
        return [listeners.listen(host, is_verified=tls.is_verified(settings), group=settings.group)]
    except InvalidArgument as error:
        raise InvalidArgument(f"{config.named(settings, 'hosts')} {host}: {error.text}") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(f"{config.named(settings, 'hosts')} {host}: {reason}") from error
