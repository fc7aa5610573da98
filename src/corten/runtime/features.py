"""The document of `features` (runtime-spec features.md): what this runtime knows, whatever this host can do."""

from __future__ import annotations

from corten import __version__
from corten.runtime.state import OCI_VERSION
from corten.spec.process import CAPABILITIES
from corten.spec.runtime import NAMESPACES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# what libseccomp resolves, and runc lists
ARCHITECTURES = (
    "AARCH64", "ARM", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE",
    "RISCV64", "S390", "S390X", "X32", "X86", "X86_64",
)  # fmt: skip
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def document() -> dict[str, Any]:
    """The whole document."""
    from corten.launch import seccomp_compile

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": mount_options(),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": list(CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(seccomp_compile.ACTIONS),
                "operators": sorted(seccomp_compile.OPERATORS),
                "archs": [f"SCMP_ARCH_{name}" for name in ARCHITECTURES],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
        "annotations": {"dev.corten.version": __version__},
    }


def mount_options() -> list[str]:
    """Every option that a mount may have, sorted; those of single file systems are the kernel's."""
    from corten.launch import options

    recursive = [f"r{name}" for name in options.ATTRIBUTES]
    return sorted({"bind", "rbind", "defaults", *options.ATTRIBUTES, *recursive, *options.PROPAGATIONS})
