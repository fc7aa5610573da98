"""The document of `features` (runtime-spec features.md): what this runtime knows, whatever this host can do.

Made from the tables that the compiler reads, and by asking the parser itself, so that no list can be wrong for long.
"""

from __future__ import annotations

import ctypes

from corten import __version__
from corten.errors import Internal, InvalidArgument
from corten.launch import options, seccomp, seccomp_compile
from corten.launch.builder import NAMESPACE_FLAGS
from corten.runtime.checkpoint import CONFIG_ANNOTATION
from corten.runtime.state import OCI_VERSION
from corten.runtime.unitproperties import ANNOTATION
from corten.spec.process import CAPABILITIES
from corten.spec.runtime import parse_config
from corten.spec.scheduling import MEMORY_FLAGS, MEMORY_MODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def document() -> dict[str, Any]:
    """The whole document."""
    library = libseccomp()
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": mount_options(),
        "linux": {
            "namespaces": sorted(NAMESPACE_FLAGS),
            "capabilities": list(CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": library is not None,
                "actions": sorted(seccomp_compile.ACTIONS),
                "operators": sorted(seccomp_compile.OPERATORS),
                "archs": seccomp_compile.architectures(library) if library else [],
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "intelRdt": intel_rdt(),
            "mountExtensions": {"idmap": {"enabled": "idmap" in mount_options()}},
            "netDevices": {"enabled": takes({"netDevices": {"eth0": {}}})},
            "memoryPolicy": {"modes": list(MEMORY_MODES), "flags": list(MEMORY_FLAGS)},
        },
        "annotations": {
            "dev.corten.version": __version__,
            "io.github.seccomp.libseccomp.version": libseccomp_version(library),
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": unsafe_annotations(),
    }


def libseccomp() -> ctypes.CDLL | None:
    """The library that compiles profiles, None where there is none."""
    try:
        return seccomp_compile.Library().lib
    except Internal:
        return None


def libseccomp_version(library: ctypes.CDLL | None) -> str:
    """As the library tells it, '' where there is none (seccomp_version(3))."""
    if library is None:
        return ""
    tell = library.seccomp_version
    tell.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return ".".join(map(str, tell().contents))


def mount_options() -> list[str]:
    """Every option that a mount may have, sorted; those of single file systems are the kernel's."""
    others = {"bind", "rbind", "defaults", "remount", "tmpcopyup", "notmpcopyup", "idmap", "ridmap"}
    known = {*others, *options.ATTRIBUTES, *options.RECURSIVE, *options.PROPAGATIONS, *options.SUPERBLOCK}
    return sorted(known - {*options.UNSUPPORTED})


def intel_rdt() -> dict[str, bool]:
    """Cache and bandwidth classes, each field by itself (runtime-spec config-linux.md, "IntelRdt")."""
    return {
        "enabled": takes({"intelRdt": {"closID": "x"}}),
        "schemata": takes({"intelRdt": {"schemata": ["MB:0=100"]}}),
        "monitoring": takes({"intelRdt": {"enableMonitoring": True}}),
    }


def unsafe_annotations() -> list[str]:
    """Annotations that change what the runtime does: properties of systemd units, and the file that CRIU reads."""
    return [ANNOTATION, CONFIG_ANNOTATION]


def takes(linux: dict[str, Any]) -> bool:
    """Whether a configuration with these fields of `linux` is read, and not refused."""
    try:
        parse_config({"ociVersion": OCI_VERSION, "linux": linux})
    except InvalidArgument:
        return False
    return True
