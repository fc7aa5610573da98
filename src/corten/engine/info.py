"""`docker version` and `docker info`."""

from __future__ import annotations

import os
import platform
import time
from typing import Any, Final

from corten import __version__
from corten.engine import cdi, logoptions
from corten.engine.infowarnings import file_system, uses_metacopy, warnings
from corten.engine.inspect import DRIVER
from corten.engine.mountspec import LOCAL
from corten.engine.parts import Parts
from corten.engine.record import Status
from corten.engine.senders import SETTING
from corten.engine.settings import BUILT_IN_RUNTIME, Settings
from corten.engine.times import rfc3339
from corten.registry.proxies import masked

Json = dict[str, Any]

API_VERSION: Final = "1.51"
MIN_API_VERSION: Final = "1.40"


class Info:
    """Answers of SystemVersion and SystemInfo."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._system = _os_release()

    async def version(self) -> Json:
        """SystemVersion.  There is no Go: GoVersion names the language that there is."""
        machine = self._parts.machine
        oldest = self._parts.settings.min_api_version or MIN_API_VERSION
        details = {
            "ApiVersion": API_VERSION,
            "Arch": machine.architecture,
            "BuildTime": "",
            "Experimental": str(self._parts.settings.experimental).lower(),
            "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}",
            "KernelVersion": machine.kernel_release,
            "MinAPIVersion": oldest,
            "Os": "linux",
        }
        return {
            "Platform": {"Name": "Corten"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": oldest,
            "GitCommit": "",
            "GoVersion": details["GoVersion"],
            "Os": "linux",
            "Arch": machine.architecture,
            "KernelVersion": machine.kernel_release,
            "BuildTime": "",
            **({"Experimental": True} if self._parts.settings.experimental else {}),
        }

    async def info(self) -> Json:
        """SystemInfo."""
        devices = await cdi.found(self._parts)
        return {
            "ID": self._parts.engine_id,
            **self._counts(),
            "Images": len(self._parts.images.list()),
            "Driver": DRIVER,
            "DriverStatus": [
                ["Backing Filesystem", file_system(self._parts.settings.data_root)],
                ["Supports d_type", "true"],
                ["Using metacopy", "true" if uses_metacopy() else "false"],
                ["Native Overlay Diff", "true"],
                ["userxattr", "false"],
            ],
            "Plugins": {
                "Volume": [LOCAL],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
                "Authorization": list(self._parts.settings.authorization_plugins) or None,
                "Log": list(logoptions.DRIVERS),
            },
            **(kernel := self._kernel()),
            **self._daemon(),
            **_discovered(devices),
            "Warnings": self._warnings(kernel, devices),
        }

    def _warnings(self, kernel: Json, devices: cdi.Found) -> list[str] | None:
        settings = self._parts.settings
        is_tls = settings.tls or settings.tlsverify
        found = warnings(kernel, settings.hosts, is_tls=is_tls, is_verified=settings.tlsverify)
        if self._parts.senders.trouble:
            found.append(f"WARNING: {SETTING}: who sends signals stays unknown: {self._parts.senders.trouble}")
        found += [f"CDI: Error associated with spec file {path}: {text}" for path, text in devices.errors]
        return found or None

    def _counts(self) -> Json:
        roster = self._parts.roster
        running = roster.count(lambda one: one.is_running)
        paused = roster.count(lambda one: one.record.state.status is Status.PAUSED)
        return {
            "Containers": len(roster),
            "ContainersRunning": running - paused,
            "ContainersPaused": paused,
            "ContainersStopped": len(roster) - running,
        }

    def _kernel(self) -> Json:
        machine = self._parts.machine
        is_v2 = machine.cgroup_mode == "v2"

        def has(name: str) -> bool:
            return is_v2 or name in machine.v1_controllers

        return {
            "MemoryLimit": has("memory"),
            "SwapLimit": has("memory"),
            "CpuCfsPeriod": has("cpu"),
            "CpuCfsQuota": has("cpu"),
            "CPUShares": has("cpu"),
            "CPUSet": has("cpuset"),
            "PidsLimit": has("pids"),
            "IPv4Forwarding": _flag("net/ipv4/ip_forward"),
            "OomKillDisable": not is_v2 and has("memory"),
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if is_v2 else "1",
            "KernelVersion": machine.kernel_release,
            "OperatingSystem": self._system.get("PRETTY_NAME", "Linux"),
            "OSVersion": self._system.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": machine.machine,
            "NCPU": machine.cpu_count,
            "MemTotal": machine.memory_bytes,
            "Name": machine.hostname,
        }

    def _daemon(self) -> Json:
        settings = self._parts.settings
        return {
            "Debug": settings.debug,
            "NFd": len(os.listdir("/proc/self/fd")),
            "NGoroutines": len(self._parts.background),
            "SystemTime": rfc3339(time.time_ns()),
            "LoggingDriver": settings.log_driver,
            "NEventsListener": self._parts.bus.listener_count,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": self._registries(),
            "GenericResources": None,
            "DockerRootDir": settings.data_root,
            "HttpProxy": masked(settings.proxies.http),
            "HttpsProxy": masked(settings.proxies.https),
            "NoProxy": settings.proxies.no_proxy,
            "Labels": list(settings.labels),
            "ExperimentalBuild": settings.experimental,
            "ServerVersion": __version__,
            "Runtimes": self._runtimes(),
            "DefaultRuntime": settings.default_runtime,
            "Swarm": _SWARM,
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": os.path.basename(self._parts.init_binary),
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": __version__},
            "SecurityOptions": _security_options(settings, self._parts.machine.cgroup_mode),
            "FirewallBackend": {"Driver": "nftables"},
            "CDISpecDirs": list(settings.cdi_directories),
            **_pools(settings),
        }

    def _runtimes(self) -> Json:
        out = {}
        for name, runtime in self._parts.settings.runtimes.items():
            entry: Json = {"path": runtime.path or BUILT_IN_RUNTIME}
            if runtime.args:
                entry["runtimeArgs"] = list(runtime.args)
            out[name] = entry
        return out

    def _registries(self) -> Json:
        settings = self._parts.settings
        mirrors = list(settings.registry_mirrors)
        insecure = [name for name in settings.insecure_registries if "/" in name]
        hosts = {name: _index(name, [], secure=False) for name in settings.insecure_registries if "/" not in name}
        return {
            "InsecureRegistryCIDRs": [*insecure, "::1/128", "127.0.0.0/8"],
            "IndexConfigs": {**hosts, "docker.io": _index("docker.io", mirrors, secure=True)},
            "Mirrors": mirrors or None,
        }


def _security_options(settings: Settings, cgroup_mode: str) -> list[str]:
    """What containers get without asking.  AppArmor is none of it, even where the kernel has it: no profile is loaded.

    cgroupns: their cgroup namespace is their own by default, which without a word is so on v2 alone.
    """
    mode = settings.default_cgroupns_mode or ("private" if cgroup_mode == "v2" else "host")
    options = [f"name=seccomp,profile={settings.seccomp_profile or 'builtin'}"]
    options += ["name=userns"] if settings.id_map is not None else []
    options += ["name=cgroupns"] if mode == "private" else []
    return options + (["name=no-new-privileges"] if settings.no_new_privileges else [])


def _discovered(found: cdi.Found) -> Json:
    """Left out where there are none, as by dockerd."""
    devices = [{"Source": "cdi", "ID": name} for name in found.devices]
    return {"DiscoveredDevices": devices} if devices else {}


_SWARM: Final[Json] = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


def _index(name: str, mirrors: list[str], *, secure: bool) -> Json:
    return {"Name": name, "Mirrors": mirrors, "Secure": secure, "Official": name == "docker.io"}


def _pools(settings: Settings) -> Json:
    """Left out where the settings name none."""
    found = [{"Base": base, "Size": size} for base, size in settings.default_address_pools]
    return {"DefaultAddressPools": found} if found else {}


def _flag(sysctl: str) -> bool:
    try:
        with open(f"/proc/sys/{sysctl}", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def _os_release() -> dict[str, str]:
    """os-release(5)."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
