"""JSON values with what a template sees of Go's types behind them: structs, their empty fields, nil.

Docker's templates run over Go structs: a field that the JSON leaves out has its zero value, one that the struct does
not have is an error, and a struct prints as `{a b}`.  `typed` adds this to an answer of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

NO_ENTRY: Final = 'map has no entry for key "{}"'


class _Mark:
    """A value of its own."""


MISSING: Final = _Mark()
NIL: Final = _Mark()  # a nil pointer


class NilList(list[Any]):
    """A nil slice: prints as `[]`, is `null` in JSON."""


class NilMap(dict[str, Any]):
    """A nil map: prints as `map[]`, is `null` in JSON."""


class Struct(dict[str, Any]):
    """A Go struct: fields by name, `source` for `json`, `reason` for a field that is not there ({} is its name)."""

    def __init__(self, fields: Mapping[str, Any], source: Any, reason: str = NO_ENTRY) -> None:
        super().__init__(fields)
        self.source = source
        self.reason = reason

    def field(self, name: str) -> Any:
        """The value, or MISSING."""
        value = self.get(name, MISSING)
        return NIL if value is None else value

    def names(self) -> Iterator[str]:
        """The fields in order, methods left out."""
        return (name for name, value in self.items() if not callable(value))


# Fields that are maps, wherever they stand; every other object is a struct.
_MAPS: Final = frozenset(
    {
        "Labels", "ExposedPorts", "Volumes", "Annotations", "Tmpfs", "Sysctls", "StorageOpt", "PortBindings",
        "Networks", "Ports", "Data", "DriverOpts", "Options", "Containers", "LogConfig.Config", "Attributes",
        "Runtimes", "IndexConfigs", "Details",
    }
)  # fmt: skip

# Zero values of fields that the engine's JSON may leave out or say null for: l(ist), m(ap), p(ointer), s, n, b.
_ZEROS: Final[dict[str, dict[str, str]]] = {
    "": {"ExecIDs": "l", "SizeRw": "p", "SizeRootFs": "p", "GraphDriver": "p", "ImageManifestDescriptor": "p"},
    "State": {"Health": "p"},
    "Config": {
        **{"ExposedPorts": "m", "Cmd": "l", "Healthcheck": "p", "ArgsEscaped": "b", "Volumes": "m", "Env": "l"},
        **{"Entrypoint": "l", "NetworkDisabled": "b", "MacAddress": "s", "OnBuild": "l", "Labels": "m"},
        **{"StopSignal": "s", "StopTimeout": "p", "Shell": "l", "Domainname": "s", "User": "s", "WorkingDir": "s"},
    },
    "HostConfig": {
        **{"Binds": "l", "VolumesFrom": "l", "Annotations": "m", "CapAdd": "l", "CapDrop": "l", "Dns": "l"},
        **{"DnsOptions": "l", "DnsSearch": "l", "ExtraHosts": "l", "GroupAdd": "l", "Links": "l", "Init": "p"},
        **{"SecurityOpt": "l", "StorageOpt": "m", "Tmpfs": "m", "Sysctls": "m", "Mounts": "l", "Ulimits": "l"},
        **{"BlkioWeightDevice": "l", "BlkioDeviceReadBps": "l", "BlkioDeviceWriteBps": "l", "Devices": "l"},
        **{"BlkioDeviceReadIOps": "l", "BlkioDeviceWriteIOps": "l", "DeviceCgroupRules": "l", "PidsLimit": "p"},
        **{"DeviceRequests": "l", "MemorySwappiness": "p", "OomKillDisable": "p", "PortBindings": "m"},
        **{"MaskedPaths": "l", "ReadonlyPaths": "l"},
    },
    "NetworkSettings": {"Ports": "m", "SecondaryIPAddresses": "l", "SecondaryIPv6Addresses": "l", "Networks": "m"},
}
_IMAGE_ZEROS: Final[dict[str, dict[str, str]]] = {
    "": {
        **{"RepoTags": "l", "RepoDigests": "l", "Parent": "s", "Comment": "s", "Container": "s", "Author": "s"},
        **{"ContainerConfig": "p", "Variant": "s", "OsVersion": "s", "VirtualSize": "n", "Config": "p"},
        **{"Manifests": "l", "Descriptor": "p"},
    },
    "Config": _ZEROS["Config"],
}
_NETWORK_ZEROS: Final[dict[str, dict[str, str]]] = {"IPAM.Config[]": {"IPRange": "s", "AuxiliaryAddresses": "m"}}
_VOLUME_ZEROS: Final[dict[str, dict[str, str]]] = {
    "": {"CreatedAt": "s", "Labels": "m", "Options": "m", "Status": "m", "UsageData": "p", "ClusterVolume": "p"},
}
_KINDS: Final = {"container": _ZEROS, "image": _IMAGE_ZEROS, "network": _NETWORK_ZEROS, "volume": _VOLUME_ZEROS}


# The order of Go's fields, where the JSON's is another.
_ORDERS: Final = {
    "Config": (
        *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty"),
        *("OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Image", "Volumes", "WorkingDir"),
        *("Entrypoint", "NetworkDisabled", "MacAddress", "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell"),
    ),
    "IPAM.Config[]": ("Subnet", "IPRange", "Gateway", "AuxiliaryAddresses"),
}


def typed(value: Any, kind: str = "", reason: str = NO_ENTRY) -> Any:
    """An answer of the engine with structs for its objects; `kind` names the table of zero values."""
    return _typed(value, _KINDS.get(kind, {}), "", reason)


def _typed(value: Any, zeros: Mapping[str, Mapping[str, str]], path: str, reason: str) -> Any:
    if isinstance(value, list):
        return [_typed(item, zeros, f"{path}[]", reason) for item in value]
    if not isinstance(value, dict):
        return value
    below = {key: _typed(item, zeros, f"{path}.{key}".strip("."), reason) for key, item in value.items()}
    if path.rpartition(".")[2] in _MAPS or path.endswith("LogConfig.Config"):
        return below
    for name, letter in zeros.get(path, {}).items():
        if below.get(name) is None:
            below[name] = _zero(letter)
    order = _ORDERS.get(path, ()) if zeros else ()
    below = {name: below[name] for name in (*order, *below) if name in below}
    return Struct(below, value, reason)


def _zero(letter: str) -> Any:
    return {"l": NilList(), "m": NilMap(), "p": None, "s": "", "n": 0, "b": False}[letter]
