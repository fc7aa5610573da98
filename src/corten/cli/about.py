"""What `version` and `info` print, in the layout of Docker's CLI."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corten import __version__
from corten.cli.gostruct import Struct, typed
from corten.cli.transport import API_VERSION
from corten.cli.units import binary_size

Json = Mapping[str, Any]


def client_version() -> dict[str, str]:
    """Of this program."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "Version": __version__,
        "ApiVersion": API_VERSION,
        "DefaultAPIVersion": API_VERSION,
        "GitCommit": "",
        "GoVersion": f"python{platform.python_version()}",
        "Os": "linux",
        "Arch": machine,
        "BuildTime": "",
        "Context": "default",
    }


def client_info() -> dict[str, Any]:
    """The client's part of `info`."""
    return {"Debug": False, **client_version(), "Plugins": [], "Warnings": None}


def version_values(client: Json, server: Json | None) -> Struct:
    """What a template of `version` sees: JSON by `json`, Go's names by name."""
    reason = "can't evaluate field {} in type system.versionInfo"
    parts = {name: _named(value) if value is not None else None for name, value in _both(client, server).items()}
    return Struct({**parts, "ServerOK": server is not None}, _both(client, server), reason)


def _both(client: Json, server: Json | None) -> dict[str, Any]:
    return {"Client": client, "Server": server}


def _named(value: Json) -> Struct:
    fields = {"APIVersion" if name == "ApiVersion" else name: typed(part) for name, part in value.items()}
    if "Components" in fields:
        fields |= {"Experimental": value.get("Experimental", False), "BuildTime": value.get("BuildTime", "")}
    return Struct(fields, value, "can't evaluate field {} in type *types.Version")


def version_lines(client: Json, server: Json | None) -> Iterator[str]:
    """The two sections; no second one without a server."""
    yield "Client: Corten"
    yield from _fields(_version_rows(client), indent=1)
    if server is None:
        return
    yield ""
    yield f"Server: {server['Platform']['Name']}"
    for component in server["Components"]:
        yield f" {component['Name']}:"
        if component["Name"] == "Engine":
            rows = _version_rows(server)
            rows.append(("Experimental", str(server.get("Experimental", False)).lower()))
        else:
            rows = [("Version", component["Version"]), *(component.get("Details") or {}).items()]
        yield from _fields(rows, indent=2)


def _version_rows(value: Json) -> list[tuple[str, str]]:
    least = f" (minimum version {value['MinAPIVersion']})" if value.get("MinAPIVersion") else ""
    rows = [
        ("Version", value["Version"]),
        ("API version", value["ApiVersion"] + least),
        ("Go version", value["GoVersion"]),
        ("Git commit", value["GitCommit"]),
        ("Built", value.get("BuildTime", "")),
        ("OS/Arch", f"{value['Os']}/{value['Arch']}"),
    ]
    return [*rows, ("Context", value["Context"])] if "Context" in value else rows


def _fields(rows: Sequence[tuple[str, str]], indent: int) -> Iterator[str]:
    for name, text in rows:
        yield f"{' ' * indent}{name + ':':<{20 - indent}}{text}"


def info_lines(info: Json, username: str) -> Iterator[str]:
    """Client, then server; `username` is the user at docker.io."""
    client = info["ClientInfo"]
    yield "Client:"
    yield f" Version:    {client['Version']}"
    yield f" Context:    {client['Context']}"
    yield f" Debug Mode: {_boolean(client['Debug'])}"
    yield ""
    yield "Server:"
    yield from _counts(info)
    yield from _parts(info)
    yield from _machine(info)
    yield from _settings(info, username)
    yield ""


def _boolean(value: Any) -> str:
    return "true" if value else "false"


def _counts(info: Json) -> Iterator[str]:
    yield f" Containers: {info['Containers']}"
    for state in ("Running", "Paused", "Stopped"):
        yield f"  {state}: {info[f'Containers{state}']}"
    yield f" Images: {info['Images']}"
    yield f" Server Version: {info['ServerVersion']}"
    yield f" Storage Driver: {info['Driver']}"
    for name, value in info.get("DriverStatus") or ():
        yield f"  {name}: {value}"


def _parts(info: Json) -> Iterator[str]:
    yield f" Logging Driver: {info['LoggingDriver']}"
    yield f" Cgroup Driver: {info['CgroupDriver']}"
    yield f" Cgroup Version: {info['CgroupVersion']}"
    yield " Plugins:"
    for kind in ("Volume", "Network", "Authorization", "Log"):
        found = info["Plugins"].get(kind)
        if found is not None:
            yield f"  {kind}: {' '.join(found)}"
    if info.get("CDISpecDirs"):
        yield " CDI spec directories:"
        yield from (f"  {directory}" for directory in info["CDISpecDirs"])
    yield f" Swarm: {info['Swarm']['LocalNodeState']}"
    yield f" Runtimes: {' '.join(sorted(info['Runtimes']))}"
    yield f" Default Runtime: {info['DefaultRuntime']}"
    yield f" Init Binary: {info['InitBinary']}"
    for title, field in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        yield f" {title} version: {info[field]['ID']}"
    yield " Security Options:"
    for option in info.get("SecurityOptions") or ():
        pairs = dict(pair.split("=", 1) for pair in option.split(","))
        yield f"  {pairs.pop('name')}"
        for name, value in pairs.items():
            yield f"   {name.title()}: {value}"


def _machine(info: Json) -> Iterator[str]:
    for title, field in (
        *(("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"), ("OSType", "OSType")),
        *(("Architecture", "Architecture"), ("CPUs", "NCPU")),
    ):
        yield f" {title}: {info[field]}"
    yield f" Total Memory: {binary_size(info['MemTotal'])}"
    for title, field in (("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir")):
        yield f" {title}: {info[field]}"


def _settings(info: Json, username: str) -> Iterator[str]:
    yield f" Debug Mode: {_boolean(info['Debug'])}"
    if info["Debug"]:
        yield f"  File Descriptors: {info['NFd']}"
        yield f"  Goroutines: {info['NGoroutines']}"
        yield f"  System Time: {info['SystemTime']}"
        yield f"  EventsListeners: {info['NEventsListener']}"
    for title, value in (
        ("HTTP Proxy", info.get("HttpProxy")),
        ("HTTPS Proxy", info.get("HttpsProxy")),
        ("No Proxy", info.get("NoProxy")),
        ("Username", username),
    ):
        if value:
            yield f" {title}: {value}"
    if info.get("Labels"):
        yield " Labels:"
        yield from (f"  {label}" for label in info["Labels"])
    yield f" Experimental: {_boolean(info['ExperimentalBuild'])}"
    registries = info.get("RegistryConfig") or {}
    insecure = [name for name, entry in registries.get("IndexConfigs", {}).items() if not entry["Secure"]]
    insecure += registries.get("InsecureRegistryCIDRs") or []
    if insecure:
        yield " Insecure Registries:"
        yield from (f"  {name}" for name in insecure)
    if registries.get("Mirrors"):
        yield " Registry Mirrors:"
        yield from (f"  {mirror}" for mirror in registries["Mirrors"])
    yield f" Live Restore Enabled: {_boolean(info['LiveRestoreEnabled'])}"
    if info.get("DefaultAddressPools"):
        yield " Default Address Pools:"
        yield from (f"   Base: {one['Base']}, Size: {one['Size']}" for one in info["DefaultAddressPools"])
