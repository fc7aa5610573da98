"""A container as Docker's API prints it: `docker inspect` and the rows of `docker ps`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.engine.container import Container
from corten.engine.effective import NODE_KEY, SHORT_ID, Effective
from corten.engine.explaining import node_object, of_policies, origins
from corten.engine.filters import status_text
from corten.engine.mountspec import MountPoint
from corten.engine.record import Health, Record, Status
from corten.engine.times import rfc3339
from corten.engine.verdict import to_json as to_json_verdict
from corten.network.inspect import default_bridge_settings, endpoint_settings, ports_map
from corten.network.ports import exposed_port
from corten.network.values import DEFAULT_NETWORK, PREDEFINED
from corten.spec.docker import EndpointSettings
from corten.spec.docker_json import to_json

Json = dict[str, Any]

DRIVER: Final = "overlay2"
_NOT_LISTED: Final = ("Links", "Aliases", "DriverOpts", "DNSNames")


class Paths:
    """Where a container's files are, below the data root."""

    __slots__ = ("directory", "hostname", "hosts", "log", "resolv_conf")

    def __init__(self, data_root: str, container_id: str) -> None:
        self.directory = f"{data_root}/containers/{container_id}"
        self.hostname = f"{self.directory}/hostname"
        self.hosts = f"{self.directory}/hosts"
        self.resolv_conf = f"{self.directory}/resolv.conf"
        self.log = f"{self.directory}/{container_id}-json.log"


def inspect(
    container: Container, paths: Paths, files: Paths, *, layers: Mapping[str, str], network_ids: Mapping[str, str]
) -> Json:
    """ContainerInspect's answer.

    files: of the container whose network files these are, once it has run; layers: GraphDriver.Data;
    network_ids: ids by name.
    """
    record = container.record
    effective = record.effective
    has_files = os.path.exists(files.hosts) and (files.directory == paths.directory or record.state.started_ns > 0)
    has_log = effective.host.log_config.type == "json-file" and os.path.exists(paths.log)
    out: Json = {
        "Id": record.id,
        "Created": rfc3339(record.created_ns),
        "Path": effective.argv[0],
        "Args": list(effective.argv[1:]),
        "State": state(record),
        "Image": record.image_id,
        "ResolvConfPath": files.resolv_conf if has_files else "",
        "HostnamePath": files.hostname if has_files else "",
        "HostsPath": files.hosts if has_files else "",
        "LogPath": paths.log if has_log else "",
        "Name": f"/{record.name}",
        "RestartCount": record.state.restart_count,
        "Driver": DRIVER,
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": effective.security.apparmor,
        "ExecIDs": list(container.exec_ids) or None,
        "HostConfig": to_json(effective.host),
        "GraphDriver": {"Data": dict(layers), "Name": DRIVER},
        "Mounts": [mount_point(point) for point in effective.mounts if not point.from_tmpfs_map],
        "Config": _config(effective),
        "NetworkSettings": network_settings(container, network_ids),
    }
    out[NODE_KEY] = {
        **node_object(effective).get(NODE_KEY, {}),
        "Origins": origins(effective),
        **of_policies(effective),
    }
    if record.state.calls:
        out[NODE_KEY] = {**out[NODE_KEY], "Calls": msgspec.to_builtins(record.state.calls)}
    if record.state.death is not None:
        out[NODE_KEY] = {**out[NODE_KEY], "Verdict": to_json_verdict(record.state.death)}
    return out


def _config(effective: Effective) -> Json:
    """`Config`; the address asked for stands there as well, where clients before API 1.44 look for it."""
    asked = effective.endpoints.get(effective.network)
    mac = asked.mac_address if asked is not None else ""
    return to_json(replace(effective.config, mac_address=effective.config.mac_address or mac))


def state(record: Record) -> Json:
    """`State`."""
    now = record.state
    status = now.status
    return {
        "Status": str(status),
        "Running": now.is_running or status is Status.RESTARTING,
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": now.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": now.pid if now.is_running else 0,
        "ExitCode": now.exit_code,
        "Error": now.error,
        "StartedAt": rfc3339(now.started_ns),
        "FinishedAt": rfc3339(now.finished_ns),
        **({"Health": health(now.health)} if now.health is not None else {}),
    }


def health(now: Health) -> Json:
    """`State.Health`."""
    return {
        "Status": now.status,
        "FailingStreak": now.failing_streak,
        "Log": [
            {"Start": entry.start, "End": entry.end, "ExitCode": entry.exit_code, "Output": entry.output}
            for entry in now.log
        ],
    }


def mount_point(point: MountPoint) -> Json:
    """One of `Mounts`."""
    is_volume = point.kind == "volume"
    is_named = is_volume or point.kind == "image"
    return {
        "Type": point.kind,
        **({"Name": point.name} if is_named else {}),
        "Source": point.source,
        "Destination": point.target,
        **({"Driver": point.driver} if is_volume else {}),
        "Mode": point.mode,
        "RW": not point.read_only,
        "Propagation": point.propagation,
    }


def network_settings(container: Container, network_ids: Mapping[str, str]) -> Json:
    """`NetworkSettings`; the flat fields are those of the default bridge."""
    record, endpoint = container.record, container.endpoint
    place, asked = record.place, record.effective.endpoints.get(DEFAULT_NETWORK)
    return {
        "SandboxID": place.sandbox_id,
        "SandboxKey": place.sandbox_key,
        "Ports": port_map(container),
        **default_bridge_settings(endpoint),
        **({"MacAddress": asked.mac_address} if asked is not None and endpoint is None else {}),
        "Networks": networks(container, network_ids),
    }


def networks(container: Container, network_ids: Mapping[str, str]) -> Json:
    """`Networks`: an entry each, none for `container:ID` and with NetworkDisabled."""
    effective = container.record.effective
    if effective.config.network_disabled:
        return {}
    return {name: _attached(container, name, asked, network_ids) for name, asked in effective.endpoints.items()}


def _attached(container: Container, name: str, asked: EndpointSettings, network_ids: Mapping[str, str]) -> Json:
    """An entry of `Networks`: what was asked for, and what came of it."""
    record, said = container.record, to_json(asked)
    network_id = network_ids.get(name, "") if record.state.started_ns else ""
    entry = endpoint_settings(network_id, container.endpoints.get(name), record.place.networks.get(name, ""))
    entry |= {key: said[key] for key in ("IPAMConfig", "Links", "Aliases", "DriverOpts", "GwPriority")}
    entry["MacAddress"] = entry["MacAddress"] or asked.mac_address
    if name not in PREDEFINED and record.state.started_ns:
        entry["DNSNames"] = names_of(container, asked)
    return entry


def _listed(entries: Json) -> Json:
    """`Networks` in a list, where dockerd leaves out what was asked for but addresses."""
    return {name: entry | dict.fromkeys(_NOT_LISTED) | _fixed_of(entry) for name, entry in entries.items()}


def _fixed_of(entry: Json) -> Json:
    ipam = entry["IPAMConfig"]
    return {"IPAMConfig": ipam and {key: value for key, value in ipam.items() if key != "LinkLocalIPs"}}


def names_of(container: Container, asked: EndpointSettings) -> list[str]:
    """What a container is called on a network, its own name first (dockerd's DNSNames)."""
    hostname = container.record.effective.config.hostname
    return list(dict.fromkeys([container.name, *(asked.aliases or ()), container.id[:SHORT_ID], hostname]))


def port_map(container: Container) -> Json:
    """`Ports`: published ones with their bindings, exposed ones with null; empty while it does not run.

    On networks without a bridge there are none.
    """
    if not container.is_running or not any(one.link for one in container.endpoints.values()):
        return {}
    specs = container.record.effective.config.exposed_ports or ()
    return ports_map(map(exposed_port, specs), container.publications)


def summary(container: Container, network_ids: Mapping[str, str], image_name: str, now_ns: int) -> Json:
    """One row of ContainerList; `image_name` is the reference, or the id when that names another image now."""
    record = container.record
    host = record.effective.host
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": image_name,
        "ImageID": record.image_id,
        "Command": _command(record.effective.argv),
        "Created": record.created_ns // 10**9,
        "Ports": _ports(container),
        "Labels": record.labels,
        "State": str(record.state.status),
        "Status": status_text(record, now_ns),
        "HostConfig": {
            "NetworkMode": host.network_mode,
            **({"Annotations": host.annotations} if host.annotations else {}),
        },
        "NetworkSettings": {"Networks": _listed(networks(container, network_ids))},
        "Mounts": [mount_point(point) for point in record.effective.mounts if not point.from_tmpfs_map],
    }


def _command(argv: tuple[str, ...]) -> str:
    """Words with blanks or quotes are quoted, as dockerd does."""
    return " ".join(f"'{word}'" if " " in word else word for word in argv)


def _ports(container: Container) -> list[Json]:
    out = []
    for key, bindings in port_map(container).items():
        port, _, protocol = key.partition("/")
        base: Json = {"PrivatePort": int(port), "Type": protocol}
        if bindings is None:
            out.append(base)
            continue
        for binding in bindings:
            out.append({"IP": binding["HostIp"], **base, "PublicPort": int(binding["HostPort"])})
    return out
