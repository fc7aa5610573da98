"""Rows of HostConfig, all but limits and devices."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from clients.fields import (
    MIB,
    SERVE,
    Json,
    Seen,
    has,
    host_ns,
    is_read_only,
    lacks,
    mount_of,
    mount_options,
    namespaces,
    published,
    refused,
    resolv,
    seen,
)
from support import paths
from support.runtimes import Runtime

seen(
    "HostConfig.Binds",
    lambda folder: [f"{folder}:/bound:ro"],
    config=(mount_options("/bound"), is_read_only),
    script="cat /bound/file; touch /bound/x 2>&1 | grep -o Read-only",
    expect="from the host\nRead-only",
)
seen("HostConfig.ContainerIDFile", "/tmp/never-written", why="the CLI writes the file; the engine keeps the name")
seen(
    "HostConfig.LogConfig.Type",
    "none",
    look=lambda container: container.api.call("GET", f"/containers/{container.id}/logs?stdout=1")[1],
    expect={"message": "configured logging driver does not support reading"},
    also={"Cmd": ["sleep", "60"]},
    keep_command=True,
    why="nothing in config.json: logs are the shim's",
)


def log_bytes(container: Seen) -> int:
    return os.stat(container.inspect["LogPath"]).st_size


seen(
    "HostConfig.LogConfig.Config",
    {"max-size": "2k", "max-file": "1"},
    inspect=("HostConfig/LogConfig/Config", {"max-size": "2k", "max-file": "1"}),
    look=log_bytes,
    expect=lambda size: 0 < size <= 2200,
    also={"HostConfig.LogConfig.Type": "json-file", "Cmd": ["sh", "-c", "seq 2000; echo --end--; sleep 60"]},
    keep_command=True,
    why="nothing in config.json: logs are the shim's",
)
seen(
    "HostConfig.NetworkMode",
    "none",
    script="ls /sys/class/net",
    expect="lo",
    why="config.json has a network namespace in both cases",
)
PORT = {"81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8181"}]}


def bound(container: Seen) -> Any:
    return container.inspect["NetworkSettings"]["Ports"].get("81/tcp")


for part in ("HostIp", "HostPort"):
    seen(
        f"HostConfig.PortBindings{{}}.{part}",
        PORT,
        inspect=("HostConfig/PortBindings", PORT),
        look=lambda container: (bound(container), published(container)),
        expect=([{"HostIp": "127.0.0.1", "HostPort": "8181"}], "served"),
        also={"ExposedPorts": {"81/tcp": {}}, **SERVE},
        keep_command=True,
        why="nothing in config.json: publishing is the engine's",
    )


def restarts(container: Seen) -> int:
    deadline = time.monotonic() + 20
    while container.inspect["RestartCount"] < 2 and time.monotonic() < deadline:
        if not container.inspect["State"]["Running"] and not container.inspect["State"]["Restarting"]:
            time.sleep(0.3)
            if not container.inspect["State"]["Restarting"]:
                break
        time.sleep(0.02)
    count: int = container.inspect["RestartCount"]
    return count


FAIL = {"Cmd": ["sh", "-c", "echo --end--; exit 3"]}
seen(
    "HostConfig.RestartPolicy.Name",
    "on-failure",
    look=restarts,
    expect=2,
    also={"HostConfig.RestartPolicy.MaximumRetryCount": 2, **FAIL},
    keep_command=True,
    why="nothing in config.json: the engine restarts",
)
seen(
    "HostConfig.RestartPolicy.MaximumRetryCount",
    1,
    look=restarts,
    expect=1,
    also={"HostConfig.RestartPolicy.Name": "on-failure", **FAIL},
    keep_command=True,
    why="nothing in config.json: the engine restarts",
)


def is_gone(container: Seen) -> bool:
    container.api.ok("POST", f"/containers/{container.id}/kill")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if container.api.call("GET", f"/containers/{container.id}/json")[0] == 404:
            return True
        time.sleep(0.02)
    return False


seen(
    "HostConfig.AutoRemove",
    True,
    look=is_gone,
    expect=True,
    why="nothing in config.json: the engine removes",
)
seen("HostConfig.VolumeDriver", "local", why="the one driver there is; another is refused as soon as a volume needs it")
refused("HostConfig.VolumesFrom", ["other"], words="No such container: other")


def bind(folder: str, **more: Any) -> list[Json]:
    """HostConfig.Mounts with one bind."""
    return [{"Type": "bind", "Source": folder, "Target": "/bound", **more}]


TMPFS = {"Type": "tmpfs", "Target": "/memory"}
for part in ("Type", "Source", "Target"):
    seen(
        f"HostConfig.Mounts[].{part}",
        bind,
        config=(mount_of("/bound"), lambda mount: mount is not None and mount["type"] == "bind"),
        script="cat /bound/file",
        expect="from the host",
    )
seen(
    "HostConfig.Mounts[].ReadOnly",
    lambda folder: bind(folder, ReadOnly=True),
    config=(mount_options("/bound"), is_read_only),
    script="touch /bound/x 2>&1 | grep -o Read-only",
    expect="Read-only",
)
seen(
    "HostConfig.Mounts[].Consistency",
    lambda folder: bind(folder, Consistency="cached"),
    why="a wish to Docker Desktop; no meaning on Linux",
)
seen(
    "HostConfig.Mounts[].BindOptions.Propagation",
    lambda folder: bind(folder, BindOptions={"Propagation": "rslave"}),
    config=(mount_options("/bound"), has("rslave")),
    script="grep -c ' /bound .* master:' /proc/self/mountinfo",
    expect="1",
)
seen(
    "HostConfig.Mounts[].BindOptions.NonRecursive",
    lambda folder: bind(folder, BindOptions={"NonRecursive": True}),
    config=(mount_options("/bound"), lacks("rbind")),
    script="ls /bound/below",
    expect="",
)
seen(
    "HostConfig.Mounts[].BindOptions.CreateMountpoint",
    lambda folder: bind(f"{folder}/made", BindOptions={"CreateMountpoint": True}),
    config=(mount_of("/bound"), lambda mount: mount is not None),
    script="ls -d /bound",
    expect="/bound",
)
WRITE_BELOW = "touch /bound/x /bound/below/x 2>&1 | grep -c Read-only"
seen(
    "HostConfig.Mounts[].BindOptions.ReadOnlyNonRecursive",
    lambda folder: bind(folder, ReadOnly=True, BindOptions={"ReadOnlyNonRecursive": True}),
    config=(mount_options("/bound"), lacks("rro")),
    script=WRITE_BELOW,
    expect="1",
)
seen(
    "HostConfig.Mounts[].BindOptions.ReadOnlyForceRecursive",
    lambda folder: bind(folder, ReadOnly=True, BindOptions={"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}),
    script=WRITE_BELOW,
    expect="2",
    same_kernel=True,
    why="probed: writes to the bind and to the mount below it fail; the same without the field, which only forbids "
    "to do without where the kernel cannot",
)
refused("HostConfig.Mounts[].VolumeOptions", lambda folder: bind(folder, VolumeOptions={"NoCopy": True}))
refused("HostConfig.Mounts[].ImageOptions", lambda folder: bind(folder, ImageOptions={"Subpath": "x"}))
seen(
    "HostConfig.Mounts[].TmpfsOptions.SizeBytes",
    [{**TMPFS, "TmpfsOptions": {"SizeBytes": 65536}}],
    config=(mount_options("/memory"), has("size=64k")),
    script="df -k /memory | tail -1 | tr -s ' ' | cut -d' ' -f2",
    expect="64",
)
seen(
    "HostConfig.Mounts[].TmpfsOptions.Mode",
    [{**TMPFS, "TmpfsOptions": {"Mode": 0o710}}],
    config=(mount_options("/memory"), has("mode=710")),
    script="stat -c %a /memory",
    expect="710",
)
seen(
    "HostConfig.Mounts[].TmpfsOptions.Options",
    [{**TMPFS, "TmpfsOptions": {"Options": [["exec"]]}}],
    config=(mount_options("/memory"), lacks("noexec")),
    script="cp /bin/busybox /memory/echo; /memory/echo ran",
    expect="ran",
)
seen(
    "HostConfig.ConsoleSize",
    [33, 99],
    config=("process/consoleSize", {"height": 33, "width": 99}),
    script="stty size",
    expect="33 99",
    also={"Tty": True},
)


def state_annotation(container: Seen) -> Any:
    """What `corten-runtime state` says, which hooks get on stdin."""
    (file,) = container.engine.exec_root.glob(f"tasks/*/{container.id}/**/state.json")
    runtime = Runtime(paths.COMMANDS / "corten-runtime", file.parent.parent)
    return runtime.state(container.id).get("annotations", {}).get("quarry")


seen(
    "HostConfig.Annotations",
    {"quarry": "one"},
    config=("annotations/quarry", "one"),
    look=state_annotation,
    expect="one",
)
CAPS = "grep CapEff /proc/self/status | tr -d '\\t'"
seen(
    "HostConfig.CapAdd",
    ["NET_ADMIN"],
    inspect=("HostConfig/CapAdd", lambda names: [name.removeprefix("CAP_") for name in names] == ["NET_ADMIN"]),
    config=("process/capabilities/effective", has("CAP_NET_ADMIN")),
    script=CAPS,
    expect="CapEff:00000000a80435fb",
)
seen(
    "HostConfig.CapDrop",
    ["CHOWN"],
    inspect=("HostConfig/CapDrop", lambda names: [name.removeprefix("CAP_") for name in names] == ["CHOWN"]),
    config=("process/capabilities/effective", lacks("CAP_CHOWN")),
    script=CAPS,
    expect="CapEff:00000000a80425fa",
)
IS_V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
seen(
    "HostConfig.CgroupnsMode",
    "host" if IS_V2 else "private",  # the default is the other one
    config=(namespaces, lacks("cgroup") if IS_V2 else has("cgroup")),
    look=lambda container: os.readlink(f"/proc/{container.pid}/ns/cgroup") == host_ns("cgroup"),
    expect=IS_V2,
)
seen(
    "HostConfig.Dns",
    ["192.0.2.53"],
    look=resolv,
    expect=has("nameserver 192.0.2.53"),
    why="nothing in config.json: a file that is mounted",
)
seen(
    "HostConfig.DnsOptions",
    ["ndots:3"],
    look=resolv,
    expect=has("options ndots:3"),
    why="nothing in config.json: a file that is mounted",
)
seen(
    "HostConfig.DnsSearch",
    ["quarry.example"],
    look=resolv,
    expect=has("search quarry.example"),
    why="nothing in config.json: a file that is mounted",
)
seen(
    "HostConfig.ExtraHosts",
    ["marble:192.0.2.7"],
    script="grep marble /etc/hosts | tr '\\t' ' '",
    expect="192.0.2.7 marble",
    why="nothing in config.json: a file that is mounted",
)
seen(
    "HostConfig.GroupAdd",
    ["29"],
    config=("process/user/additionalGids", has(29)),
    script="id -G",
    expect=re.compile(r"0.* 29.*|0 29"),
)
seen(
    "HostConfig.IpcMode",
    "host",
    config=(namespaces, lacks("ipc")),
    script="readlink /proc/self/ns/ipc",
    expect=lambda got: got == host_ns("ipc"),
)
NOTHING = "dockerd does nothing with it, and Corten says so in a warning"
seen("HostConfig.Cgroup", "other", why=NOTHING)
refused("HostConfig.Links", ["nonesuch:alias"], words="could not get container for nonesuch")  # others: side_scripts
seen(
    "HostConfig.OomScoreAdj",
    321,
    config=("process/oomScoreAdj", 321),
    script="cat /proc/self/oom_score_adj",
    expect="321",
)
seen(
    "HostConfig.PidMode",
    "host",
    config=(namespaces, lacks("pid")),
    script="readlink /proc/self/ns/pid",
    expect=lambda got: got == host_ns("pid"),
)
seen(
    "HostConfig.Privileged",
    True,
    config=("process/capabilities/effective", has("CAP_SYS_ADMIN")),
    script="mount -t tmpfs tmpfs /mnt 2>&1 || mount -t tmpfs tmpfs /var/tmp && echo mounted",
    expect=re.compile(r"(?s).*mounted"),
)
seen(
    "HostConfig.PublishAllPorts",
    True,
    look=published,
    expect="served",
    also={"ExposedPorts": {"81/tcp": {}}, **SERVE},
    keep_command=True,
    why="nothing in config.json: publishing is the engine's",
)
seen(
    "HostConfig.ReadonlyRootfs",
    True,
    config=("root/readonly", True),
    script="touch /x 2>&1 | grep -o Read-only",
    expect="Read-only",
)
seen(
    "HostConfig.SecurityOpt",
    ["no-new-privileges"],
    config=("process/noNewPrivileges", True),
    script="grep NoNewPrivs /proc/self/status | tr -d '\\t'",
    expect="NoNewPrivs:1",
)
refused("HostConfig.StorageOpt", {"size": "1G"}, words="--storage-opt is supported only for overlay over xfs")
seen(
    "HostConfig.Tmpfs",
    {"/memory": "size=64k"},
    config=(mount_options("/memory"), has("size=64k")),
    script="df -k /memory | tail -1 | tr -s ' ' | cut -d' ' -f2",
    expect="64",
)
seen(
    "HostConfig.UTSMode",
    "host",
    config=(namespaces, lacks("uts")),
    script="readlink /proc/self/ns/uts",
    expect=lambda got: got == host_ns("uts"),
)
seen("HostConfig.UsernsMode", "private", why=NOTHING)
seen(
    "HostConfig.ShmSize",
    1 * MIB,
    config=(mount_options("/dev/shm"), has(f"size={MIB}")),
    script="df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2",
    expect="1024",
)
seen(
    "HostConfig.Sysctls",
    {"kernel.msgmax": "4242"},
    config=(lambda config: config["linux"].get("sysctl", {}).get("kernel.msgmax"), "4242"),
    script="cat /proc/sys/kernel/msgmax",
    expect="4242",
)


def runtime_root(container: Seen) -> list[str]:
    """Files that the runtime keeps of the container: runc and crun have names of their own for them."""
    found = container.engine.exec_root.glob(f"tasks/*/{container.id}/**/state*.json")
    status = container.engine.exec_root.glob(f"tasks/*/{container.id}/**/status")
    return sorted(path.name for path in [*found, *status])


seen(
    "HostConfig.Runtime",
    "crun",
    config=("ociVersion", "1.0.2"),
    look=runtime_root,
    expect=has("status"),
)
refused("HostConfig.Isolation", "process")
seen(
    "HostConfig.MaskedPaths",
    ["/proc/version"],
    config=("linux/maskedPaths", ["/proc/version"]),
    script="wc -c </proc/version",
    expect="0",
)
seen(
    "HostConfig.ReadonlyPaths",
    ["/etc"],
    config=("linux/readonlyPaths", ["/etc"]),
    script="touch /etc/x 2>&1 | grep -o Read-only",
    expect="Read-only",
)
seen(
    "HostConfig.Init",
    True,
    config=("process/args", lambda args: "init" in args[0]),
    script="cat /proc/1/comm",
    expect=re.compile(r".*init.*"),
)
