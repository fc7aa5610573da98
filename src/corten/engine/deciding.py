"""What a container will be: the request, image, node and the containers it names, and then the node's policies.

Policies are asked in another process, so the world may change meanwhile.  What is made is what they have seen: when
they are through everything is decided once more, with nothing awaited from there until it is made, and is compared.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.core import asker
from corten.core.archive import host_platform
from corten.core.images import Image
from corten.engine import effective, links, mountspec, policyvalues
from corten.engine.container import Container
from corten.engine.effective import Effective
from corten.engine.mountspec import MountPoint
from corten.engine.parts import Parts
from corten.engine.policies import Policies, wrong
from corten.engine.update import updated
from corten.errors import Conflict, CortenError, InvalidArgument
from corten.spec.docker import ContainerCreateRequest, ContainerUpdateRequest, HostConfig
from corten.spec.platforms import parse_platform

Json = dict[str, Any]

_TRIES: Final = 5


class Wanted(msgspec.Struct, frozen=True):
    """A request under way: `existing` are the bind sources that are there."""

    request: ContainerCreateRequest
    container_id: str
    platform: str
    name: str
    existing: frozenset[str] = frozenset()


class Decider:
    """Decides for create, `--explain` and update."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def decide(
        self, request: ContainerCreateRequest, container_id: str, platform: str, *, name: str
    ) -> tuple[Image, Effective, list[str]]:
        """Nothing is awaited after the image was found: an rmi finds it used.

        Raises InvalidArgument and what `effective.decide` does; PermissionDenied where a policy refuses.
        """
        if not request.config.image:
            raise InvalidArgument("no image specified")
        for _ in range(_TRIES):
            wanted = Wanted(request, container_id, platform, name, await self._existing(request.host_config))
            policies = self._parts.policies
            if not policies.functions:
                return self._now(wanted)
            wanted, image, judged, told = await self._judged(wanted, policies)
            now, same, warnings = self._now(wanted)
            if (now.id, same) == (image.id, judged) and policies is self._parts.policies:
                return now, policyvalues.carried(same, told), warnings
        raise Conflict("what the container is made of has changed while policies were asked: try again")

    async def _judged(self, wanted: Wanted, policies: Policies) -> tuple[Wanted, Image, Effective, Effective]:
        """The request with the policies' values, what it comes to, and the same with their origins."""
        image, judged, _ = self._now(wanted)
        told = judged
        for function in policies.functions:
            shown = self._view(told, verb="create", name=wanted.name, image_id=image.id)
            values = policyvalues.checked(await policies.ask(function, shown), function)
            if not values:
                continue
            wanted = replace(wanted, request=policyvalues.in_create(wanted.request, values, function))
            try:
                image, judged, _ = self._now(wanted)
            except CortenError as error:
                raise wrong(function, error) from error
            told = policyvalues.told(policyvalues.carried(judged, told), told, values, function)
        return wanted, image, judged, told

    def _view(self, shown: Effective, *, verb: str, name: str, image_id: str) -> Json:
        machine, client = self._parts.machine, asker.current()
        return policyvalues.view(shown, verb=verb, name=name, image_id=image_id, machine=machine, client=client)

    def _now(self, wanted: Wanted) -> tuple[Image, Effective, list[str]]:
        parts, request = self._parts, wanted.request
        platform = parse_platform(wanted.platform, host_platform()) if wanted.platform else None
        image = parts.images.get(request.config.image, platform)
        decided, warnings = effective.decide(
            request,
            image.config.run,
            parts.settings,
            parts.machine,
            container_id=wanted.container_id,
            resolve=self._named_containers(request),
            exists=wanted.existing.__contains__,
            borrowed=self._borrowed(request.host_config),
            linked=links.resolved(request.host_config, parts.roster.find),
            find_network=parts.networks.sought,
        )
        if decided.network not in ("host", "none") and not parts.bridge.forwards:
            warnings.append("IPv4 forwarding is disabled. Networking will not work.")
        return image, decided, warnings

    async def update(self, container: Container, request: ContainerUpdateRequest) -> Effective:
        """What a container will be after an update; the caller holds its lock.

        Raises InvalidArgument, Conflict; PermissionDenied where a policy refuses.
        """
        before, machine = container.record.effective, self._parts.machine
        changed = updated(before, request, machine)
        name, image_id = container.name, container.record.image_id
        policies = self._parts.policies  # these to the end: a reload puts others in their place
        for function in policies.functions:
            shown = self._view(changed, verb="update", name=name, image_id=image_id)
            values = policyvalues.checked(await policies.ask(function, shown), function)
            request, counts = policyvalues.in_update(request, values, function, changed)
            if not counts:
                continue
            try:
                after = updated(before, request, machine)
            except CortenError as error:
                raise wrong(function, error) from error
            changed = policyvalues.told(policyvalues.carried(after, changed), changed, counts, function)
        return changed

    async def allow(self, container: Container, changed: Effective) -> None:
        """Asks whether a container may become that.  What policies would change of it waits for its next update.

        Raises PermissionDenied where a policy refuses.
        """
        policies = self._parts.policies
        for function in policies.functions:
            shown = self._view(changed, verb="update", name=container.name, image_id=container.record.image_id)
            policyvalues.checked(await policies.ask(function, shown), function)

    async def _existing(self, host: HostConfig) -> frozenset[str]:
        needed = [mount.source for mount in host.mounts or () if mountspec.needs_source(mount)]
        return frozenset({source for source in needed if await self._exists(source)})

    async def _exists(self, source: str) -> bool:
        look = functools.partial(os.path.exists, source)
        return await self._parts.host_looks.look("bind source", os.path.normpath(source), look)

    def _borrowed(self, host: HostConfig) -> list[MountPoint]:
        """The mounts that --volumes-from names.  Not NotFound: the CLI would take it for the image's and pull."""
        points: list[MountPoint] = []
        for text in host.volumes_from or ():
            ref, read_only = mountspec.parse_volumes_from(text)
            try:
                other = self._parts.roster.find(ref)
            except CortenError as error:
                raise InvalidArgument(error.text) from error
            points += mountspec.borrow(other.record.effective.mounts, read_only=read_only)
        return points

    def _named_containers(self, request: ContainerCreateRequest) -> dict[str, str]:
        """Names in `container:NAME` modes and their ids.  Pid and ipc must exist now, a network at start."""
        host = request.host_config
        out = {}
        for mode, is_needed in ((host.pid_mode, True), (host.ipc_mode, True), (host.network_mode, False)):
            prefix, _, name = mode.partition(":")
            if prefix != "container" or not name:
                continue
            try:
                out[name] = self._parts.roster.find(name).id
            except CortenError as error:
                if is_needed:  # not NotFound: the CLI would take it for the image's and pull
                    raise InvalidArgument(error.text) from error
        return out
