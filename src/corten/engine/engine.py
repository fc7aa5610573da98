"""The engine as the doors see it: every operation of `docker.engine_api.Engine`, put together from its services.

What a service already offers in the right form is the operation; nothing is forwarded by hand.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import posixpath
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from corten.core.content import ContentStore
from corten.core.metadata import Database
from corten.core.resolver import Resolver
from corten.engine import events, filters, links, logfiles, plan, stats, top, why
from corten.engine.archives import Archives
from corten.engine.callwatch import CallWatch
from corten.engine.commits import Commits
from corten.engine.connections import Connections
from corten.engine.container import Container
from corten.engine.copies import Copies
from corten.engine.copyups import CopyUps
from corten.engine.execs import Execs
from corten.engine.explaining import explain
from corten.engine.filters import Filters, ListQuery, sift
from corten.engine.finish import TRACE_NAME, Finisher
from corten.engine.health import Healths
from corten.engine.imagemounts import ImageMounts
from corten.engine.imageprune import ImagePrune
from corten.engine.images import Images
from corten.engine.imageviews import ImageViews
from corten.engine.info import Info
from corten.engine.inspect import inspect, summary
from corten.engine.lasting import Lasting
from corten.engine.lifecycle import Lifecycle
from corten.engine.lifetimes import Lifetimes
from corten.engine.logs import LogOptions, LogStream
from corten.engine.metrics import Metrics
from corten.engine.naming import Naming
from corten.engine.networkops import NetworkOps
from corten.engine.parts import Parts
from corten.engine.publishing import Publishing
from corten.engine.pulls import Pulls
from corten.engine.pushes import Pushes
from corten.engine.recovery import Recovery
from corten.engine.removal import Removal
from corten.engine.sharedmemory import SharedMemory
from corten.engine.shimwatch import ShimWatch
from corten.engine.start import Starter
from corten.engine.streams import AttachOptions, ClientStream, Streams, check_size
from corten.engine.threads import disk_error, in_own_thread
from corten.engine.volumemounts import VolumeMounts
from corten.engine.volumes import Volumes
from corten.engine.webimport import WebImport
from corten.errors import Conflict, CortenError, NotFound
from corten.launch.facts import HostFacts
from corten.registry.sources import BlobSources
from corten.shim.detach import parse_keys
from corten.spec.docker import ContainerCreateRequest

Json = dict[str, Any]

log = logging.getLogger("corten.engine")

_CLOSE_TIMEOUT_S: Final = 4.0


class Engine:
    """Life: make it, `recover`, serve, `close`.  All of it in one event loop."""

    def __init__(self, parts: Parts, database: Database, content: ContentStore, facts: HostFacts) -> None:
        self._parts = parts
        self._facts = facts
        shared_memory = SharedMemory(parts.roster)
        self._streams = Streams()
        finisher = Finisher(parts, shared_memory)
        starter = Starter(parts, self._streams, shared_memory, events=finisher.told, lost=finisher.lost)
        self._watch = watch = ShimWatch(parts)
        removal = Removal(parts, self._streams)
        self._life = life = Lifecycle(parts, starter, finisher, removal, watch)
        finisher.start_again = starter.start
        finisher.remove = removal.remove_soon
        removal.kill_to_end = life.kill_to_end
        self._execs = execs = Execs(parts)
        self._healths = healths = Healths(parts, execs)
        finisher.exec_exited = execs.exited
        finisher.health_told = healths.told
        self._lasting = Lasting()
        lifetimes = Lifetimes(parts, life, self._lasting)
        calls = CallWatch(parts)
        lifetimes.armed, lifetimes.disarmed = (calls.begun,), (calls.ended, execs.container_ended)
        finisher.before_verdict = calls.drain
        starter.begun = lifetimes.arm
        finisher.container_ended = lifetimes.disarm
        self.metrics_text = Metrics(parts, self._sample).text
        self._recovery = Recovery(parts, finisher, execs, healths, watch, database=database, content=content)
        self._recovery.adopted = lifetimes.arm
        info = Info(parts)
        lasting = self._lasting.verb

        self.version, self.info = info.version, info.info
        self.login = parts.registries.login
        self.container_create = lasting(life.create)
        self.container_start = lasting(life.start)
        self.container_stop = lasting(life.stop)
        self.container_restart = lasting(life.restart)
        self.container_kill = lasting(life.kill)
        self.container_pause = lasting(life.pause)
        self.container_unpause = lasting(life.unpause)
        self.container_wait = life.wait
        self.container_rename = lasting(life.rename)
        self.container_remove = lasting(removal.remove)
        self.container_prune = removal.prune
        self.container_update = lasting(life.update)
        self.exec_create = execs.create
        self.exec_check = execs.check
        self.exec_start = execs.start
        self.exec_resize = execs.resize
        self.exec_inspect = execs.inspect
        self._serve_images(parts)
        self._serve_volumes(parts, starter, finisher, removal)
        self._serve_networks(parts, starter, finisher)

    def _serve_networks(self, parts: Parts, starter: Starter, finisher: Finisher) -> None:
        resolver = Resolver(parts.tasks.zygote, parts.settings.exec_root, lost=self._resolver_lost)
        self._resolver, self._naming = resolver, Naming(parts, resolver)
        starter.naming = finisher.naming = self._naming
        networks, lasting = NetworkOps(parts, self._naming), self._lasting.verb
        publishing = Publishing(parts, self._life.find)
        connections = Connections(parts, self._life.find, self._naming, publishing)
        self._life.renamed, self._recovery.settle = self._naming.renamed, connections.settle
        self.network_create = lasting(networks.create)
        self.network_remove = lasting(networks.remove)
        self.network_connect = lasting(connections.connect)
        self.network_disconnect = lasting(connections.disconnect)
        self.network_prune = networks.prune
        self.container_ports = lasting(publishing.change)

    def _serve_volumes(self, parts: Parts, starter: Starter, finisher: Finisher, removal: Removal) -> None:
        volumes, mounts = Volumes(parts), VolumeMounts(parts)
        self._life.volumes, self._life.copy_ups = volumes, CopyUps(parts, mounts)
        self._recovery.volume_mounts = starter.volume_mounts = parts.views.volume_mounts = mounts
        removal.forget_volumes = volumes.forget_anonymous
        removal.drop_volumes = volumes.drop_forgotten
        finisher.tell_volumes, finisher.release_volumes = mounts.tell_unmount, mounts.release
        self.volume_create = volumes.create
        self.volume_list = volumes.rows
        self.volume_inspect = volumes.inspect
        self.volume_remove = volumes.remove
        self.volume_update = volumes.update
        self.volume_prune = volumes.prune
        self.volume_usage = volumes.usage

    def _serve_images(self, parts: Parts) -> None:
        images, views, archives = Images(parts), ImageViews(parts), Archives(parts)
        sources = BlobSources(parts.images.database)
        sources.sweep(parts.images.content)
        pulls, pushes = Pulls(parts, sources), Pushes(parts, sources)
        self.image_load = images.load
        self.image_import = images.import_rootfs
        self.image_import_url = WebImport(parts).import_url
        self.image_list = views.rows
        self.image_inspect = views.inspect
        self.image_history = views.history
        self.image_usage = views.usage
        self.image_tag = images.tag
        self.image_remove = images.remove
        self.image_prune = ImagePrune(parts, views, pulls.downloads).prune
        mounts = ImageMounts(parts)
        self.image_mount, self.image_mounts, self.image_unmount = mounts.mount, mounts.mounts, mounts.unmount
        self.image_pull = pulls.pull
        self.image_push = pushes.push
        self.distribution = pushes.distribution
        self.image_save = archives.save
        self.container_export = archives.export
        self.container_changes = archives.changes
        copies = Copies(parts)
        self.container_path_stat, self.container_archive = copies.stat, copies.archive
        self.container_extract = copies.extract
        self.container_commit = self._lasting.verb(Commits(parts, self._life).commit)

    # Life

    async def recover(self) -> None:
        """Adopt and clean up; then the engine can serve."""
        await self._recovery.run()
        await self._restore_names()

    async def _restore_names(self) -> None:
        try:
            await self._naming.restore()
        except (CortenError, OSError) as error:
            log.warning("names of containers are not answered until cortend is started again: %s", error)

    def _resolver_lost(self) -> None:
        self._naming.lost()
        self._parts.run_later(self._restore_names())

    async def attend(self) -> None:
        """What goes on while the engine serves: restart policies, the trash, the watch over shims.  Until cancelled."""
        policies = self._lasting.verb(self._recovery.start_policies)
        await asyncio.gather(policies(), self._recovery.empty_trash(), self._watch.run())

    async def close(self) -> None:
        """Wait for what runs in the background.  Containers go on."""
        await self._lasting.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._parts.settle()
        except TimeoutError:
            log.warning("%d pieces of work are left to the next start", len(self._parts.background))
        self._streams.close()
        self._resolver.close()
        for container in self._parts.roster:
            if container.task is not None and container.task.shim is not None:
                container.task.shim.close()
                self._healths.keep(container)

    # Looking

    def events(self, filters: Filters, since: str, until: str) -> AsyncIterator[Json]:
        """`docker events`."""
        return events.follow(self._parts.bus, filters, since, until)

    async def container_inspect(self, ref: str, size: bool = False) -> Json:
        """ContainerInspect."""
        container = self._life.find(ref)
        parts = self._parts
        owner = container.record.effective.network.partition("container:")[2] or container.id
        out = inspect(
            container,
            parts.paths(container.id),
            parts.paths(owner),
            layers=self._layers(container),
            network_ids=parts.networks.ids,
        )
        out["HostConfig"]["Links"] = links.shown(container, parts.roster)
        return out | await self._sizes(container) if size else out

    def _layers(self, container: Container) -> Json:
        """GraphDriver.Data in Docker's words."""
        options: dict[str, str] = {}
        try:
            mounts = self._parts.snapshots.mounts(container.id)
        except NotFound:
            return {}
        for option in mounts[0].options:
            key, _, value = option.partition("=")
            options[key] = value
        names = (("LowerDir", "lowerdir"), ("UpperDir", "upperdir"), ("WorkDir", "workdir"))
        out = {title: options[key] for title, key in names if key in options}
        return out | {"MergedDir": f"{posixpath.dirname(out['UpperDir'])}/merged"} if "UpperDir" in out else out

    async def _sizes(self, container: Container) -> Json:
        """Raises NotFound, also when it is removed meanwhile."""
        try:
            own = await in_own_thread("usage", functools.partial(self._parts.snapshots.usage, container.id))
        except (NotFound, FileNotFoundError) as error:
            raise NotFound(f"No such container: {container.id}") from error
        image = self._parts.images.find_id(container.record.image_id)
        return {"SizeRw": own.size, "SizeRootFs": own.size + (image.size if image is not None else 0)}

    async def container_list(self, all: bool, limit: int, size: bool, filters: Filters) -> list[Json]:
        """Newest first."""
        query = self._list_query(all or limit > 0, filters)
        found = await sift(filters, query.among, list(self._parts.roster))
        found.sort(key=lambda one: one.record.created_ns, reverse=True)
        now_ns, rows = time.time_ns(), []
        image_name, aliases = functools.cache(self._image_name), links.names(self._parts.roster)
        for container in found[: limit if limit > 0 else None]:
            name = image_name(container.record.image_ref, container.record.image_id)
            row = summary(container, self._parts.networks.ids, name, now_ns)
            row["Names"] = sorted([*row["Names"], *aliases.get(container.id, ())])
            try:
                sizes = await self._sizes(container) if size else {}
            except NotFound:  # it was removed meanwhile
                continue
            rows.append(row | {name: value for name, value in sizes.items() if value})
        return rows

    def _list_query(self, all: bool, wanted: Filters) -> ListQuery:
        filters.check(wanted)
        before, since = wanted.get("before", ()), wanted.get("since", ())
        return ListQuery(
            wanted,
            all=all,
            ancestors=self._ancestors(wanted),
            before=self._life.find(before[0]).record if before else None,
            since=self._life.find(since[0]).record if since else None,
            network_ids=self._parts.networks.ids,
        )

    def _ancestors(self, wanted: Filters) -> frozenset[str] | None:
        """Ids of the images that `ancestor` names; unknown ones match nothing.  Images built on them count."""
        if "ancestor" not in wanted:
            return None
        found: set[str] = set()
        for ref in wanted["ancestor"]:
            try:
                found.add(self._parts.images.find(ref).id)
            except CortenError:
                continue
        queue = list(found)
        while queue:
            children = set(self._parts.images.children(queue.pop())) - found
            found |= children
            queue += children
        return frozenset(found)

    def _image_name(self, ref: str, image_id: str) -> str:
        """The name it was made with, or the image's id when that name is another's by now."""
        try:
            is_same = self._parts.images.find(ref).id == image_id
        except CortenError:
            is_same = False
        return ref if is_same else image_id

    async def container_top(self, ref: str, ps_args: str) -> Json:
        """`docker top`."""
        container = self._life.find(ref)
        with container.asked() as shim:
            pids = await shim.pids()
        answer = await top.top(pids, ps_args)
        self._parts.bus.publish(events.container_event(container.record, "top"))
        return answer

    async def container_stats(self, ref: str, one_shot: bool) -> Json:
        """One sample; that of a container that ended meanwhile has nothing in it."""
        return await self._sample(self._life.find(ref))

    async def _sample(self, container: Container) -> Json:
        sample = None
        if container.is_running:
            try:
                sample = await self._counters(container)
            except CortenError:
                if container.is_running:
                    raise
        has_network = not {"host"} & (names := self._network_owner(container).record.place.networks).keys() and bool(
            names
        )
        return stats.sample(container, sample, self._parts.machine, has_network=has_network)

    async def _counters(self, container: Container) -> Json:
        """Of its cgroup: read here where it is known which that is, so that a thousand shims go on resting."""
        shim = container.require_running()
        runtime = self._parts.settings.runtimes.get(container.record.effective.host.runtime)
        if container.task is None or runtime is None or runtime.path:  # another's choice, of which the shim knows
            return await shim.stats()
        try:
            return self._parts.tasks.cgroup(container.task.cgroup_path).stats()
        except OSError as error:  # the cgroup went while it was read
            raise disk_error(error) from error

    def _network_owner(self, container: Container) -> Container:
        """The container whose network it uses: itself, or that of `--network container:`."""
        mode = container.record.effective.network
        owner = self._parts.roster.get(mode.partition("container:")[2])
        return owner if owner is not None and owner.is_running else container

    async def log_usage(self) -> dict[str, int]:
        """Bytes on disk of each container's log, rotated files and all."""
        places = {one.id: place.path for one in self._parts.roster if (place := self._parts.log_place(one)) is not None}
        return await asyncio.to_thread(lambda: {id: logfiles.size_of(path) for id, path in places.items()})

    def container_logs(self, ref: str, options: LogOptions) -> LogStream:
        """`docker logs`."""
        return LogStream(lambda: self._life.find(ref), self._parts.log_place, options)

    # Streams

    async def attach_check(self, ref: str, options: AttachOptions) -> bool:
        """Whether it has a tty.  Raises InvalidArgument for keys that are none, NotFound."""
        parse_keys(options.detach_keys)
        return await self._streams.check(self._life.find(ref))

    async def container_attach(self, ref: str, options: AttachOptions, stream: ClientStream) -> None:
        """Hand the client over, now or at the start."""
        container = self._life.find(ref)
        await self._streams.attach(container, options, stream, self._parts.log_place(container))
        self._parts.bus.publish(events.container_event(container.record, "attach"))

    async def container_resize(self, ref: str, rows: int, cols: int) -> None:
        """Size of the terminal."""
        check_size(rows, cols)
        container = self._life.find(ref)
        with container.asked() as shim:
            await shim.resize(rows, cols)
        attributes = {"height": str(rows), "width": str(cols)}
        self._parts.bus.publish(events.container_event(container.record, "resize", **attributes))

    # Explaining

    async def container_explain(self, request: ContainerCreateRequest, name: str) -> Json:
        """The effective configuration with the origin of each value, and the launch plan; nothing is made."""
        _, effective = await self._life.explain(request, name)
        steps = await asyncio.to_thread(plan.describe, effective, self._parts, self._facts)
        return {"effective": explain(effective), "plan": steps}

    async def container_trace(self, ref: str) -> Json:
        """Phases and steps of the last start."""
        container = self._life.find(ref)
        if container.task is not None and container.task.shim is not None:
            recorded = await container.task.shim.trace()
            phases = [*container.phases, *recorded.get("phases", ())]
            return {"phases": phases, "steps": recorded.get("steps", [])}
        if container.cleanup is not None:  # which keeps it
            await asyncio.wait([container.cleanup])
        try:
            with open(f"{self._parts.paths(container.id).directory}/{TRACE_NAME}", "rb") as file:
                kept: Json = msgspec.json.decode(file.read())
        except FileNotFoundError as error:
            raise Conflict(f"container {container.id} was never started") from error
        return kept

    async def container_why(self, ref: str) -> Json:
        """How the last run ended, and by what that is known; also of a container that is gone, while events tell."""
        try:
            container = self._life.find(ref)
        except NotFound:
            gone = await asyncio.to_thread(why.of_the_gone, self._parts.event_log, ref.removeprefix("/"))
            if gone is None or gone["Id"] in self._parts.roster:  # which had this name once
                raise
            return gone
        return await why.explain(container, self._parts, self.container_logs(container.id, why.LastLines()))

    # Networks

    async def network_list(self, filters: Filters) -> list[Json]:
        """The three there are."""
        return await sift(filters, self._parts.networks.list, filters)

    async def network_inspect(self, ref: str) -> Json:
        """One of them."""
        return self._parts.networks.inspect(ref, self._parts.roster)
