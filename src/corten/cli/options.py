"""The flags of `run` and `create`, and the request body of `POST /containers/create` that they make.

One table: flag, kind, help.  The words are those of `docker run --help`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from corten import errors
from corten.cli import envfile, values
from corten.cli.flags import Integer, OldName, Switch, Value, quoted
from corten.cli.mounts import parse_mount, parse_volume
from corten.cli.networkflag import check_mac, networking, parse_network
from corten.cli.ports import parse_exposed, parse_ports
from corten.cli.units import parse_bytes, parse_duration_ns, parse_swap
from corten.cli.values import CHECKS, LISTS
from corten.spec.cdiname import is_qualified
from corten.spec.words import HEALTH_ACTION_LABEL

# (flags, kind, help): kind is bool, str, int, uint, uint16, list, mounts, or one of corten.cli.values
FLAGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("--add-host",), "hosts", "Add a custom host-to-IP mapping (host:ip)"),
    (("--annotation",), "list", "Add an annotation to the container"),
    (("-a", "--attach"), "streams", "Attach to STDIN, STDOUT or STDERR"),
    (("--blkio-weight",), "uint16", "Block IO (relative weight), between 10 and 1000"),
    (("--blkio-weight-device",), "device weights", "Block IO weight (relative device weight)"),
    (("--cap-add",), "list", "Add Linux capabilities"),
    (("--cap-drop",), "list", "Drop Linux capabilities"),
    (("--cgroup-parent",), "str", "Optional parent cgroup for the container"),
    (("--cgroupns",), "str", "Cgroup namespace to use (host|private)"),
    (("--cidfile",), "str", "Write the container ID to the file"),
    (("--cpu-count",), "int", "CPU count (Windows only)"),
    (("--cpu-percent",), "int", "CPU percent (Windows only)"),
    (("--cpu-period",), "int", "Limit CPU CFS period"),
    (("--cpu-quota",), "int", "Limit CPU CFS quota"),
    (("--cpu-rt-period",), "int", "Limit CPU real-time period in microseconds"),
    (("--cpu-rt-runtime",), "int", "Limit CPU real-time runtime in microseconds"),
    (("-c", "--cpu-shares"), "int", "CPU shares (relative weight)"),
    (("--cpus",), "cpus", "Number of CPUs"),
    (("--cpuset-cpus",), "str", "CPUs in which to allow execution (0-3, 0,1)"),
    (("--cpuset-mems",), "str", "MEMs in which to allow execution (0-3, 0,1)"),
    (("--device",), "list", "Add a host device to the container"),
    (("--device-cgroup-rule",), "device rules", "Add a rule to the cgroup allowed devices list"),
    (("--device-read-bps",), "device bytes", "Limit read rate (bytes per second) from a device"),
    (("--device-read-iops",), "device operations", "Limit read rate (IO per second) from a device"),
    (("--device-write-bps",), "device bytes", "Limit write rate (bytes per second) to a device"),
    (("--device-write-iops",), "device operations", "Limit write rate (IO per second) to a device"),
    (("--disable-content-trust/--no-disable-content-trust",), "switch", "Skip image verification"),
    (("--dns",), "addresses", "Set custom DNS servers"),
    (("--dns-option",), "list", "Set DNS options"),
    (("--dns-search",), "domains", "Set custom DNS search domains"),
    (("--domainname",), "str", "Container NIS domain name"),
    (("--entrypoint",), "str", "Overwrite the default ENTRYPOINT of the image"),
    (("-e", "--env"), "environment", "Set environment variables"),
    (("--env-file",), "list", "Read in a file of environment variables"),
    (("--expose",), "list", "Expose a port or a range of ports"),
    (("--gpus",), "gpus", "GPU devices to add to the container"),
    (("--group-add",), "list", "Add additional groups to join"),
    (("--health-cmd",), "str", "Command to run to check health"),
    (("--health-interval",), "duration", "Time between running the check"),
    (("--health-on-failure",), "str", "What is done to an unhealthy container (none, kill, stop, restart)"),
    (("--health-retries",), "int", "Consecutive failures needed to report unhealthy"),
    (("--health-start-interval",), "duration", "Time between running the check during the start period"),
    (("--health-start-period",), "duration", "Start period before health-retries countdown"),
    (("--health-timeout",), "duration", "Maximum time to allow one check to run"),
    (("-h", "--hostname"), "str", "Container host name"),
    (("--init",), "bool", "Run an init inside the container that forwards signals and reaps processes"),
    (("-i", "--interactive"), "bool", "Keep STDIN open even if not attached"),
    (("--io-maxbandwidth",), "size", "Maximum IO bandwidth limit for the system drive (Windows only)"),
    (("--io-maxiops",), "uint", "Maximum IOps limit for the system drive (Windows only)"),
    (("--ip",), "str", "IPv4 address"),
    (("--ip6",), "str", "IPv6 address"),
    (("--ipc",), "str", "IPC mode to use"),
    (("--isolation",), "str", "Container isolation technology"),
    (("--kernel-memory",), "size", "Kernel memory limit"),
    (("-l", "--label"), "labels", "Set meta data on a container"),
    (("--label-file",), "list", "Read in a line delimited file of labels"),
    (("--link",), "links", "Add link to another container"),
    (("--link-local-ip",), "list", "Container IPv4/IPv6 link-local addresses"),
    (("--log-driver",), "str", "Logging driver for the container"),
    (("--log-opt",), "list", "Log driver options"),
    (("--mac-address",), "str", "Container MAC address"),
    (("-m", "--memory"), "size", "Memory limit"),
    (("--memory-reservation",), "size", "Memory soft limit"),
    (("--memory-swap",), "swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap"),
    (("--memory-swappiness",), "int", "Tune container memory swappiness (0 to 100)"),
    (("--mount",), "mounts", "Attach a filesystem mount to the container"),
    (("--name",), "str", "Assign a name to the container"),
    (("--network", "--net"), "list", "Connect a container to a network"),
    (("--network-alias", "--net-alias"), "list", "Add network-scoped alias for the container"),
    (("--no-healthcheck",), "bool", "Disable any container-specified HEALTHCHECK"),
    (("--oom-kill-disable",), "bool", "Disable OOM Killer"),
    (("--oom-score-adj",), "int", "Tune host's OOM preferences (-1000 to 1000)"),
    (("--pid",), "str", "PID namespace to use"),
    (("--pids-limit",), "int", "Tune container pids limit (set -1 for unlimited)"),
    (("--platform",), "str", "Set platform if server is multi-platform capable"),
    (("--privileged",), "bool", "Give extended privileges to this container"),
    (("-p", "--publish"), "list", "Publish a container's port(s) to the host"),
    (("-P", "--publish-all"), "bool", "Publish all exposed ports to random ports"),
    (("--pull",), "str", "Pull image before running (always, missing, never)"),
    (("-q", "--quiet"), "bool", "Suppress the pull output"),
    (("--read-only",), "bool", "Mount the container's root filesystem as read only"),
    (("--restart",), "str", "Restart policy to apply when a container exits"),
    (("--rm",), "bool", "Automatically remove the container and its associated anonymous volumes"),
    (("--runtime",), "str", "Runtime to use for this container"),
    (("--security-opt",), "list", "Security Options"),
    (("--shm-size",), "size", "Size of /dev/shm"),
    (("--stop-signal",), "str", "Signal to stop the container"),
    (("--stop-timeout",), "int", "Timeout (in seconds) to stop a container"),
    (("--storage-opt",), "list", "Storage driver options for the container"),
    (("--sysctl",), "sysctls", "Sysctl options"),
    (("--tmpfs",), "list", "Mount a tmpfs directory"),
    (("-t", "--tty"), "bool", "Allocate a pseudo-TTY"),
    (("--ulimit",), "ulimits", "Ulimit options"),
    (("--use-api-socket",), "bool", "Bind mount the API socket and its credentials"),
    (("-u", "--user"), "str", "Username or UID (format: <name|uid>[:<group|gid>])"),
    (("--userns",), "str", "User namespace to use"),
    (("--uts",), "str", "UTS namespace to use"),
    (("-v", "--volume"), "list", "Bind mount a volume"),
    (("--volume-driver",), "str", "Optional volume driver for the container"),
    (("--volumes-from",), "list", "Mount volumes from the specified container(s)"),
    (("-w", "--workdir"), "str", "Working directory inside the container"),
)
_CLICK_KINDS: dict[str, dict[str, Any]] = {
    "bool": {"is_flag": True},
    "switch": {"default": True, "cls": Switch},
    "str": {"type": str},
    "int": {"type": Integer()},
    "uint": {"type": Integer(is_signed=False)},
    "uint16": {"type": Integer(16, is_signed=False)},
    "list": {"multiple": True},
    "mounts": {"multiple": True, "type": Value(parse_mount)},
    **{kind: {"multiple": kind in LISTS, "type": Value(check)} for kind, check in CHECKS.items()},
}
# names of before → those of click's values
OLD_NAMES = {"--net": "network", "--net-alias": "network_alias"}
# Docker's CLI refuses them unless the engine is Windows'.
_WINDOWS = ("cpu_count", "cpu_percent", "io_maxbandwidth", "io_maxiops")


def create_flags(extra: Sequence[tuple[tuple[str, ...], str, str]] = ()) -> list[click.Option]:
    """click's options for `create`, and `run` with its extra ones."""
    return [make_option(names, kind, text) for names, kind, text in (*FLAGS, *extra)]


def make_option(names: tuple[str, ...], kind: str, text: str) -> click.Option:
    """click's option of a row of a table such as `FLAGS`."""
    if names[-1] in OLD_NAMES:
        check = Value(parse_network) if names[0] == "--network" else None
        return OldName([*names, OLD_NAMES[names[-1]]], help=text, multiple=True, type=check)
    settings = dict(_CLICK_KINDS[kind])
    cls: type[click.Option] = settings.pop("cls", click.Option)
    return cls(list(names), help=text, **settings)


def create_request(given: Mapping[str, Any], image: str, command: Sequence[str]) -> dict[str, Any]:
    """The body of ContainerCreate.  Raises `InvalidArgument` in the words of Docker's CLI."""
    _refuse_combinations(given)
    host, config = _host_config(given), _config(given, image, command)
    exposed, bindings = parse_ports(given["publish"])
    exposed |= {port: {} for text in given["expose"] for port in parse_exposed(text)}
    _put(config, "ExposedPorts", exposed)
    _put(host, "PortBindings", bindings)
    host["NetworkMode"], endpoints = networking(given)
    return {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": endpoints}}


def _refuse_combinations(given: Mapping[str, Any]) -> None:
    """What Docker's CLI refuses by itself."""
    if not given["disable_content_trust"]:
        raise errors.InvalidArgument("--disable-content-trust=false is not supported yet")
    if given["pull"] not in (None, "", "always", "missing", "never"):
        raise errors.InvalidArgument(
            f'invalid pull option: \'{given["pull"]}\': must be one of "always", "missing" or "never"'
        )
    swappiness = given["memory_swappiness"]
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise errors.InvalidArgument(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    _check_modes(given)
    check_mac(given["mac_address"] or "")
    for option in given["storage_opt"]:
        if "=" not in option:
            raise errors.InvalidArgument("invalid storage option")
    if given["rm"] and given["restart"] not in (None, "", "no"):
        raise errors.InvalidArgument("conflicting options: cannot specify both --restart and --rm")


def _check_modes(given: Mapping[str, Any]) -> None:
    for flag, word, names in (
        ("pid", "PID", ("", "host", "private")),
        ("uts", "UTS", ("", "host", "private")),
        ("userns", "USER", ("", "host", "private")),
        ("cgroupns", "CGROUP", ("", "host", "private")),
    ):
        value = given[flag] or ""
        if value not in names and not (flag == "pid" and value.startswith("container:")):
            raise errors.InvalidArgument(f"--{flag}: invalid {word} mode")


def refuse_windows(given: Mapping[str, Any]) -> None:
    """Raises `InvalidArgument` for flags of Windows' engine, in Docker's words."""
    for name in _WINDOWS:
        if given[name]:
            raise errors.InvalidArgument(
                f'"--{name.replace("_", "-")}" is only supported on a Docker daemon running on windows, '
                "but the Docker daemon is running on linux"
            )


def _config(given: Mapping[str, Any], image: str, command: Sequence[str]) -> dict[str, Any]:
    attach = {stream.lower() for stream in given["attach"]}
    stdin = given["interactive"]
    foreground = not given.get("detach")
    config: dict[str, Any] = {
        "Image": image,
        "Hostname": given["hostname"] or "",
        "Domainname": given["domainname"] or "",
        "User": given["user"] or "",
        "AttachStdin": foreground and ((stdin and not attach) or "stdin" in attach),
        "AttachStdout": foreground and (not attach or "stdout" in attach),
        "AttachStderr": foreground and (not attach or "stderr" in attach),
        "Tty": given["tty"],
        "OpenStdin": stdin,
        "StdinOnce": foreground and stdin,
        "Env": environment(given["env"], given["env_file"]),
        "WorkingDir": given["workdir"] or "",
        "Labels": _labels(given["label"], given["label_file"]) | _health_action(given),
    }
    _put(config, "Cmd", list(command))
    _put(config, "StopSignal", given["stop_signal"])
    if given["stop_timeout"] is not None:
        config["StopTimeout"] = given["stop_timeout"]
    if given["entrypoint"] is not None:
        config["Entrypoint"] = [given["entrypoint"]]
    _put(config, "Healthcheck", _health(given))
    return config


def _health_action(given: Mapping[str, Any]) -> dict[str, str]:
    """A label, so that the docker CLI and compose can say it too."""
    action = given["health_on_failure"]
    return {HEALTH_ACTION_LABEL: action} if action is not None else {}


def _health(given: Mapping[str, Any]) -> dict[str, Any]:
    if given["no_healthcheck"]:
        if any(given[name] for name in given if name.startswith("health_")):
            raise errors.InvalidArgument("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if (given["health_retries"] or 0) < 0:
        raise errors.InvalidArgument("--health-retries cannot be negative")
    health: dict[str, Any] = {}
    _put(health, "Test", ["CMD-SHELL", given["health_cmd"]] if given["health_cmd"] else None)
    for field, name in (
        ("Interval", "health_interval"),
        ("Timeout", "health_timeout"),
        ("StartPeriod", "health_start_period"),
        ("StartInterval", "health_start_interval"),
    ):
        value = parse_duration_ns(given[name]) if given[name] else 0
        if value < 0:
            raise errors.InvalidArgument(f"--{name.replace('_', '-')} cannot be negative")
        _put(health, field, value or None)
    _put(health, "Retries", given["health_retries"])
    return health


# HostConfig fields that are the flag's value, or one function of it
HOST_FIELDS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("CapAdd", "cap_add", list),
    ("CapDrop", "cap_drop", list),
    ("CgroupParent", "cgroup_parent", str),
    ("CgroupnsMode", "cgroupns", str),
    ("ContainerIDFile", "cidfile", str),
    ("CpuCount", "cpu_count", int),
    ("CpuPercent", "cpu_percent", int),
    ("CpuPeriod", "cpu_period", int),
    ("CpuRealtimePeriod", "cpu_rt_period", int),
    ("CpuRealtimeRuntime", "cpu_rt_runtime", int),
    ("CpuQuota", "cpu_quota", int),
    ("CpuShares", "cpu_shares", int),
    ("CpusetCpus", "cpuset_cpus", str),
    ("CpusetMems", "cpuset_mems", str),
    ("BlkioWeight", "blkio_weight", int),
    ("DeviceCgroupRules", "device_cgroup_rule", list),
    ("Dns", "dns", list),
    ("DnsOptions", "dns_option", list),
    ("DnsSearch", "dns_search", list),
    ("GroupAdd", "group_add", list),
    ("IpcMode", "ipc", str),
    ("IOMaximumBandwidth", "io_maxbandwidth", parse_bytes),
    ("IOMaximumIOps", "io_maxiops", int),
    ("Isolation", "isolation", str),
    ("KernelMemory", "kernel_memory", parse_bytes),
    ("Links", "link", list),
    ("Memory", "memory", parse_bytes),
    ("MemoryReservation", "memory_reservation", parse_bytes),
    ("MemorySwap", "memory_swap", parse_swap),
    ("MemorySwappiness", "memory_swappiness", int),
    ("OomKillDisable", "oom_kill_disable", bool),
    ("OomScoreAdj", "oom_score_adj", int),
    ("PidMode", "pid", str),
    ("PidsLimit", "pids_limit", int),
    ("Privileged", "privileged", bool),
    ("PublishAllPorts", "publish_all", bool),
    ("ReadonlyRootfs", "read_only", bool),
    ("AutoRemove", "rm", bool),
    ("Runtime", "runtime", str),
    ("ShmSize", "shm_size", parse_bytes),
    ("UTSMode", "uts", str),
    ("UsernsMode", "userns", str),
    ("VolumeDriver", "volume_driver", str),
    ("VolumesFrom", "volumes_from", list),
    ("Init", "init", bool),
)


# HostConfig fields that are lists: flag, and what becomes of each value
HOST_LISTS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("Ulimits", "ulimit", values.ulimit),
    ("BlkioWeightDevice", "blkio_weight_device", values.device_weight),
    ("BlkioDeviceReadBps", "device_read_bps", values.device_bytes),
    ("BlkioDeviceReadIOps", "device_read_iops", values.device_operations),
    ("BlkioDeviceWriteBps", "device_write_bps", values.device_bytes),
    ("BlkioDeviceWriteIOps", "device_write_iops", values.device_operations),
    ("ExtraHosts", "add_host", values.extra_host),
    ("Binds", "volume", parse_volume),
    ("Mounts", "mount", parse_mount),
)


def _host_config(given: Mapping[str, Any]) -> dict[str, Any]:
    host: dict[str, Any] = {}
    for field, name, convert in HOST_FIELDS:
        value = given[name]
        if value not in (None, "", (), False):
            host[field] = convert(value)
    _put(host, "NanoCpus", values.cpus(given["cpus"]) if given["cpus"] else 0)
    _put(host, "SecurityOpt", [_security_option(option) for option in given["security_opt"]])
    _put(host, "Sysctls", dict(_pairs(given["sysctl"])))
    _put(host, "StorageOpt", dict(_pairs(given["storage_opt"])))
    _put(host, "Annotations", dict(_pairs(given["annotation"])))
    of_cdi = [text for text in given["device"] if is_qualified(text)]
    _put(host, "Devices", [_device(text) for text in given["device"] if text not in of_cdi])
    for field, name, convert in HOST_LISTS:
        _put(host, field, [convert(text) for text in given[name]])
    _put(host, "Tmpfs", {path: rest for path, _, rest in (t.partition(":") for t in given["tmpfs"])})
    _put(host, "RestartPolicy", restart_policy(given["restart"] or ""))
    if given["log_driver"] or given["log_opt"]:
        host["LogConfig"] = {"Type": given["log_driver"] or "", "Config": dict(_pairs(given["log_opt"]))}
    if given["gpus"]:
        host["DeviceRequests"] = [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]
    if of_cdi:
        host["DeviceRequests"] = [*host.get("DeviceRequests", ()), {"Driver": "cdi", "DeviceIDs": of_cdi}]
    return host


def environment(given: Iterable[str], files: Iterable[str]) -> list[str]:
    """`KEY=VALUE` strings; a bare `KEY` takes the value from our own environment, or is left out."""
    result = []
    for line in [line for path in files for line in envfile.lines(path)] + list(given):
        name, equals, _ = line.partition("=")
        if equals:
            result.append(line)
        elif name in os.environ:
            result.append(f"{name}={os.environ[name]}")
    return result


def _labels(given: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    return dict(_pairs([line for path in files for line in envfile.lines(path)] + list(given)))


def _pairs(texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (text.partition("=") for text in texts)]


def _put(target: dict[str, Any], field: str, value: Any) -> None:
    if value not in (None, "", (), [], {}):
        target[field] = value


def _security_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if name != "no-new-privileges" and not (value if equals else option.partition(":")[2]):
        raise errors.InvalidArgument(f"Invalid --security-opt: {quoted(option)}")
    if name != "seccomp" or value in ("unconfined", "builtin"):
        return option
    try:
        with open(value, encoding="utf-8") as file:
            profile = file.read()
        json.loads(profile)
    except ValueError as error:
        raise errors.InvalidArgument(f"seccomp profile ({value}) is not JSON: {error}") from None
    except OSError as error:
        raise errors.InvalidArgument(
            f"opening seccomp profile ({value}) failed: open {value}: {(error.strerror or '').lower()}"
        ) from error
    return f"seccomp={profile}"


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    host, inside, access = parts[0], parts[0], "rwm"
    if len(parts) == 2:
        is_access = bool(re.fullmatch(r"[rwm]{1,3}", parts[1]))
        inside, access = (host, parts[1]) if is_access else (parts[1], access)
    elif len(parts) == 3:
        inside, access = parts[1], parts[2]
    if len(parts) > 3 or not host:
        raise errors.InvalidArgument(f"bad format for path: {text}")
    if not inside.startswith("/"):
        raise errors.InvalidArgument(f"{inside} is not an absolute path")
    if not re.fullmatch(r"[rwm]{1,3}", access):
        raise errors.InvalidArgument(f"bad mode specified: {access}")
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access}


def restart_policy(text: str) -> dict[str, Any]:
    """`--restart`, as the API has it.  Raises `InvalidArgument` in Docker's words."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise errors.InvalidArgument("invalid restart policy format: no policy provided before colon")
    digits = re.fullmatch("([+-]?)0*([0-9]{1,19})", count)  # strconv.Atoi
    number = int(digits[1] + digits[2]) if digits is not None else 0
    if count and (digits is None or not -(1 << 63) <= number < 1 << 63):
        raise errors.InvalidArgument("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": number} if name else {}
