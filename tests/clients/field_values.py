"""Values of every field of a create request and of an update, wrong ones among them, for both engines.

`CREATED` and `UPDATED`: dotted field → values; one beside which other fields stand is `Beside(value, …)`.  `STARTED`
are the creates that are started as well, because dockerd refuses them only then, or does something of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Json = Any
MIB: Final = 1 << 20
SECOND: Final = 10**9
LARGE: Final = (1 << 63) - 1


@dataclass(frozen=True)
class Beside:
    """A value with other fields, `HostConfig_Memory=…`."""

    value: Json
    others: tuple[tuple[str, Json], ...]


def beside(value: Json, **others: Json) -> Beside:
    return Beside(value, tuple((name.replace("_", "."), other) for name, other in others.items()))


def health(**fields: Json) -> Json:
    """With a test, unless that is given."""
    return {"Test": ["CMD", "true"], **fields}


def mount(**fields: Json) -> Json:
    return [{"Type": "bind", "Source": "/tmp", "Target": "/m", **fields}]


CONFIG: Final[dict[str, tuple[Json, ...]]] = {
    "Hostname": ("a.b", "-x", "x" * 64, "x_y", "UPPER", "bad name", "é"),
    "Domainname": ("d.example", "x" * 65, "bad name"),
    "User": ("nobody", "0:0", "1000:1000:1", "-1", "99999999999", ":"),
    "AttachStdin": (True,),
    "AttachStdout": (True,),
    "ExposedPorts": (
        *({"80/tcp": {}}, {"80": {}}, {"80/icmp": {}}, {"x/tcp": {}}, {"80-82/udp": {}}, {"70000/tcp": {}}),
        *({"0/tcp": {}}, {"": {}}, {"82-80/tcp": {}}, {"80/TCP": {}}, {"80/": {}}, {"80/sctp": {}}),
    ),
    "Tty": (True,),
    "OpenStdin": (True,),
    "StdinOnce": (True,),
    "Env": (["A=b"], ["A"], ["=x"], [""], ["A=b", "A=c"], ["A b=c"], ["A=b\nc"], []),
    "Cmd": ([], "echo x", [""], ["a", ""]),
    "Healthcheck": (
        *({}, {"Test": []}, {"Test": [""]}, {"Test": ["NONE"]}, {"Test": ["NONE", "x"]}, {"Test": ["CMD"]}),
        *({"Test": ["x"]}, {"Test": ["CMD-SHELL"]}, {"Test": ["CMD-SHELL", "a", "b"]}, {"Interval": SECOND}),
        *(health(Interval=value) for value in (1, -1, 999_999, 10**6, LARGE)),
        *(health(Timeout=value) for value in (1, -1, 10**6)),
        *(health(StartPeriod=value) for value in (1, -1, 10**6)),
        *(health(StartInterval=value) for value in (1, -1, 10**6)),
        *(health(Retries=value) for value in (-1, 0, 1 << 31, LARGE)),
        health(Interval=1, Retries=-1),
    ),
    "ArgsEscaped": (True,),
    "Volumes": ({"/v": {}}, {"v": {}}, {"/v:ro": {}}, {"/v/../w": {}}),
    "WorkingDir": ("x", "/x/../y", "/x/", "."),
    "Entrypoint": ([], [""], "echo", ["echo", ""]),
    "NetworkDisabled": (True,),
    "MacAddress": ("02:42:ac:11:00:05", "zz", "02-42-ac-11-00-05", "0242.ac11.0005"),
    "OnBuild": (["RUN x"],),
    "Labels": ({"": "x"}, {"a": ""}, {"a b": "c\nd"}),
    "StopSignal": ("SIGUSR1", "usr1", "99", "0", "-1", "RTMIN+3", "SIGNOPE", " ", "65", "64"),
    "StopTimeout": (0, -1, 5, 1 << 31, LARGE),
    "Shell": (["/bin/sh"], "sh"),
}
LIMITS: Final[dict[str, tuple[Json, ...]]] = {
    "CpuShares": (-1, 1, 2, 262144, 262145),
    "Memory": (1, -1, 6 * MIB - 1, 6 * MIB, LARGE),
    "NanoCpus": (-1, 1, 10**7, 10**12),
    "CpuPeriod": (1, -1, 1000, 1_000_001),
    "CpuQuota": (-1, -2, 1, 999, 1000),
    "CpusetCpus": ("0-9", "x", "0,,1", "1-0", " 0", "0-", "-1", "0-1:2", "00"),
    "CpusetMems": ("1", "x", "0"),
    "MemoryReservation": (-1, 1, 6 * MIB, 32 * MIB),
    "MemorySwap": (-1, -2, 1, 64 * MIB, LARGE),
    "PidsLimit": (0, -1, -5, 1, LARGE),
    "BlkioWeight": (1, 9, 10, 1000, 1001),
    "CpuRealtimePeriod": (1000, -1),
    "KernelMemory": (1, 64 * MIB, -1),
    "KernelMemoryTCP": (1, 64 * MIB, -1),
    "CpuCount": (1, -1, 99),
    "CpuPercent": (1, 101, -1),
    "IOMaximumIOps": (1,),
    "IOMaximumBandwidth": (1,),
    "MemorySwappiness": (-1, -2, 0, 50, 100, 101),
    "OomKillDisable": (True, False),
}
HOST: Final[dict[str, tuple[Json, ...]]] = {
    **LIMITS,
    "Memory": (*LIMITS["Memory"], beside(64 * MIB, HostConfig_MemorySwap=32 * MIB)),
    "MemorySwap": (
        *LIMITS["MemorySwap"],
        *(beside(value, HostConfig_Memory=64 * MIB) for value in (-1, -2, 0, 64 * MIB, 65 * MIB)),
    ),
    "MemoryReservation": (*LIMITS["MemoryReservation"], beside(65 * MIB, HostConfig_Memory=64 * MIB)),
    "NanoCpus": (
        *LIMITS["NanoCpus"],
        beside(10**9, HostConfig_CpuPeriod=1000),
        beside(10**9, HostConfig_CpuQuota=1000),
        beside(10**9, HostConfig_CpuQuota=-1),
    ),
    "CpuRealtimeRuntime": (-1, beside(2000, HostConfig_CpuRealtimePeriod=1000)),
    "OomKillDisable": (*LIMITS["OomKillDisable"], beside(True, HostConfig_Memory=64 * MIB)),
    "CgroupParent": ("x/../y", "x.slice", "/life-test"),
    "BlkioWeightDevice": ([{"Path": "/dev/null", "Weight": 9}], [{"Path": "", "Weight": 10}]),
    "BlkioDeviceReadBps": ([{"Path": "", "Rate": 1}], [{"Path": "/dev/vda", "Rate": 0}]),
    "Devices": (
        [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "x"}],
        [{"PathOnHost": "/dev/null", "PathInContainer": "", "CgroupPermissions": ""}],
        [{"PathOnHost": "", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
        [{"PathOnHost": "/dev/nonesuch", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
    ),
    "DeviceCgroupRules": (["x"], ["c 1:3"], ["a *:* rwm"], ["c 1:3 rwx"], ["c 1:* r"], [""]),
    "DeviceRequests": ([{"Driver": "x"}], [{"Count": 1, "DeviceIDs": ["0"]}]),
    "Ulimits": (
        *([{"Name": "x", "Soft": 1, "Hard": 1}], [{"Name": "nofile", "Soft": 2, "Hard": 1}]),
        *([{"Name": "nofile", "Soft": -1, "Hard": -1}], [{"Name": "", "Soft": 1, "Hard": 1}]),
        [{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "core", "Soft": 0, "Hard": 0}],
    ),
    "Binds": (
        *(["/x"], ["a:b"], ["/tmp:/y:z"], ["/tmp:/y:bad"], [":/x"], ["/tmp:/"], ["/tmp:/y:ro,rw"], [""]),
        *(["v:/y:rslave"], ["/tmp:/y:nocopy"], ["/tmp:/y:ro:x"], ["/tmp:y"], ["/tmp:/y", "/tmp:/y"], ["x y:/z"]),
    ),
    "ContainerIDFile": ("x",),
    "LogConfig": (
        *({"Type": "x"}, {"Type": "json-file", "Config": {"x": "y"}}, {"Type": "", "Config": {"max-size": "1m"}}),
        *({"Type": "json-file", "Config": {"max-size": "x"}}, {"Type": "json-file", "Config": {"max-file": "0"}}),
        *({"Type": "json-file", "Config": {"mode": "x"}}, {"Type": "none", "Config": {"x": "y"}}),
        *({"Type": "local", "Config": {"compress": "x"}}, {"Type": "syslog", "Config": {"syslog-address": "x"}}),
    ),
    "NetworkMode": ("", "default", "none", "host", "container:", "container", "bridge", "container:nonesuch", "nope"),
    "PortBindings": (
        *({"80/tcp": [{"HostPort": "x"}]}, {"80/tcp": [{"HostPort": "0"}]}, {"80": [{"HostPort": "80"}]}),
        *({"80/tcp": []}, {"80/tcp": None}, {"80/icmp": [{}]}, {"80/tcp": [{"HostIp": "x", "HostPort": "80"}]}),
        *({"80/tcp": [{"HostPort": "70000"}]}, {"80/tcp": [{"HostPort": "90-80"}]}, {"x": [{"HostPort": "1"}]}),
        *({"80/tcp": [{"HostPort": "-1"}]}, {"80/tcp": [{"HostPort": "8000-8010"}]}, {"": [{"HostPort": "1"}]}),
        *({"80-82/tcp": [{"HostPort": "80-82"}]}, {"80/tcp": [{"HostPort": "+80"}]}),
    ),
    "RestartPolicy": (
        *({"Name": "x"}, {"Name": "always", "MaximumRetryCount": 1}, {"Name": "on-failure", "MaximumRetryCount": -1}),
        *({"Name": "no", "MaximumRetryCount": 1}, {"Name": "", "MaximumRetryCount": 1}, {"Name": "on-failure"}),
        *({"Name": "no", "MaximumRetryCount": -1}, {"Name": "unless-stopped", "MaximumRetryCount": -1}),
        beside({"Name": "always"}, HostConfig_AutoRemove=True),
        beside({"Name": "x"}, HostConfig_AutoRemove=True),
    ),
    "AutoRemove": (True,),
    "VolumeDriver": ("x", beside("x", Volumes={"/v": {}}), beside("x", HostConfig_Binds=["vol:/v"]), "local"),
    "VolumesFrom": (["nonesuch"], ["nonesuch:ro"], [""], ["nonesuch:bad"], ["a:b:c"]),
    "ConsoleSize": ([1, 2], [0, 0]),
    "Annotations": ({"": "x"}, {"a": ""}, {"a": "b"}),
    "CapAdd": (["x"], ["ALL"], ["cap_net_admin"], [""], ["NET_ADMIN", "net_admin"], "SYS_TIME", ["CAP_ALL"]),
    "CapDrop": (["x"], ["ALL"], ["all"], [""], ["chown"]),
    "CgroupnsMode": ("x", "private", "host"),
    "Dns": (["x"], ["::1"], [""], ["10.0.0.1", "10.0.0.1"], ["10.0.0"], ["fe80::1%eth0"]),
    "DnsOptions": (["x y"], [""], ["ndots:9"]),
    "DnsSearch": (["."], ["x y"], [""]),
    "ExtraHosts": (
        *(["x"], ["a:1.2.3.4"], ["a:nope"], ["a:host-gateway"], ["a=1.2.3.4"], [":1.2.3.4"], ["a:"], [""]),
        *(["a:::1"], ["a:[::1]"]),
    ),
    "GroupAdd": (["audio"], ["-1"], [""], ["99999999999"]),
    "IpcMode": ("x", "none", "private", "shareable", "host", "container", "container:", "container:nonesuch"),
    "Cgroup": ("x", "container:y", "container:"),
    "Links": (["nonesuch:x"], ["nonesuch"], ["a:b:c"], [""]),
    "OomScoreAdj": (1001, -1001, 1000, -1000),
    "PidMode": ("x", "container:", "container:nonesuch", "private", "host"),
    "Privileged": (True,),
    "PublishAllPorts": (True,),
    "ReadonlyRootfs": (True,),
    "SecurityOpt": (
        *(["x"], ["x=y"], ["no-new-privileges:false"], ["no-new-privileges=x"], ["seccomp=unconfined"], ["seccomp={}"]),
        *(["seccomp=x"], ["label=disable"], ["systempaths=unconfined"], ["no-new-privileges"], [""], ["seccomp:x=y"]),
        *(["no-new-privileges=true", "no-new-privileges=false"], ["apparmor=unconfined"], ["label=x"]),
    ),
    "StorageOpt": ({"size": "1g"}, {"size": "x"}, {"x": "y"}, {"size": ""}),
    "Tmpfs": ({"/x": "size=x"}, {"x": ""}, {"/x": "bad"}, {"/": ""}, {"/x": "size=1m,mode=700"}, {"": ""}),
    "UTSMode": ("x", "host", "private", "container:y", beside("host", Hostname="x")),
    "UsernsMode": ("host", "private", "x", "keep-id"),
    "ShmSize": (-1, 1, LARGE),
    "Sysctls": (
        {"x": "y"},
        {"kernel.hostname": "x"},
        beside({"net.ipv4.ip_forward": "1"}, HostConfig_NetworkMode="host"),
    ),
    "Runtime": ("x", "crun", "runc "),
    "Isolation": ("default", "process", "x", "hyperv", "DEFAULT"),
    "Mounts": (
        *(mount(Type="x"), mount(Target="m"), mount(Target="/"), mount(Source="tmp"), mount(Source="/nonesuch")),
        *(mount(Type=""), mount(Target=""), mount(Source=""), mount(Consistency="x"), mount(Type="tmpfs")),
        *(mount(BindOptions={"Propagation": "x"}), mount(TmpfsOptions={"SizeBytes": -1}), mount(Type="npipe")),
        *([{"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"SizeBytes": -1}}], [{"Type": "volume", "Target": "/m"}]),
        *([{"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"Mode": 0o1777}}], mount(Type="cluster", Source="x")),
        *(mount(BindOptions={"ReadOnlyForceRecursive": True}), mount(BindOptions={"ReadOnlyNonRecursive": True})),
    ),
    "MaskedPaths": ([], ["x"], ["/proc/version"]),
    "ReadonlyPaths": ([], ["x"], ["/proc/version"]),
    "Init": (True, False, beside(True, HostConfig_PidMode="host")),
}
CREATED: Final = {**CONFIG, **{f"HostConfig.{name}": values for name, values in HOST.items()}}

# Those of which something comes only at a start.
STARTED: Final[dict[str, tuple[Json, ...]]] = {
    "Hostname": ("x" * 65, "é"),
    "Domainname": ("d.example",),
    "User": ("nonesuch", "nobody:nonesuch", "-1"),
    "Cmd": (["nonesuch"], [""], ["/etc"]),
    "ArgsEscaped": (True,),
    "NetworkDisabled": (True,),
    "WorkingDir": ("/etc/passwd",),
    "HostConfig.KernelMemoryTCP": (64 * MIB,),
    "HostConfig.CpuCount": (1,),
    "HostConfig.CpuPercent": (50,),
    "HostConfig.Cgroup": ("x",),
    "HostConfig.UsernsMode": ("host", "private"),
    "HostConfig.GroupAdd": (["nonesuch"],),
    "HostConfig.Devices": ([{"PathOnHost": "/dev/nonesuch", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],),
    "HostConfig.Sysctls": ({"net.ipv4.nonesuch": "1"}, {"kernel.hostname": "x"}),
    "HostConfig.MaskedPaths": (["/proc/version"],),
    "HostConfig.NetworkMode": ("container:nonesuch", "nope"),
    "HostConfig.OomScoreAdj": (500,),
    "HostConfig.ShmSize": (1 << 20,),
    "HostConfig.Isolation": ("default",),
    "HostConfig.Runtime": ("crun",),
}

# To a container that runs with 64 MiB of memory, those of a row one after the other.
UPDATED: Final[dict[str, tuple[Json, ...]]] = {
    "memory": (
        {"Memory": 100 * MIB, "MemorySwap": 300 * MIB},
        {"Memory": 200 * MIB},
        {"Memory": 32 * MIB},
        {"MemorySwap": 100 * MIB},
        {"Memory": 101 * MIB},
        {"Memory": 24 * MIB, "MemorySwap": 48 * MIB},
    ),
    "no swap limit": ({"MemorySwap": -1},),
    "no swap limit, then one": ({"MemorySwap": -1}, {"Memory": 80 * MIB, "MemorySwap": 96 * MIB}),
    "no swap limit, then more memory": ({"MemorySwap": -1}, {"Memory": 200 * MIB}),
    "swap below memory": ({"MemorySwap": 40 * MIB},),
    "reservation": ({"MemoryReservation": 16 * MIB}, {"MemoryReservation": 64 * MIB}),
    "reservation above memory": ({"MemoryReservation": 65 * MIB},),
    "cpu": ({"CpuShares": 512}, {"CpuQuota": 50_000}, {"CpuPeriod": 50_000}, {"CpuQuota": -1}, {"CpuQuota": 20_000}),
    "cpus": ({"NanoCpus": 10**9}, {"NanoCpus": 5 * 10**8}, {"CpuPeriod": 1000}, {"CpuQuota": 5000}),
    "cpus beside a period": ({"NanoCpus": 10**9, "CpuPeriod": 1000},),
    "sets": ({"CpusetCpus": "0"}, {"CpusetCpus": "0-1", "CpusetMems": "0"}),
    "pids": ({"PidsLimit": 40}, {"PidsLimit": 50}),
    "no pids": ({"PidsLimit": 40}, {"PidsLimit": 0}, {"PidsLimit": 40}, {"PidsLimit": -1}),
    "real time": ({"CpuRealtimePeriod": 900_000},),
    "real time above its period": ({"CpuRealtimePeriod": 1000, "CpuRealtimeRuntime": 2000},),
    "not updated": (
        {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 9}]},
        {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]},
        {"DeviceCgroupRules": ["c 1:3 r"]},
        {"DeviceRequests": [{"Driver": "x"}]},
        {"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}]},
        {"BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 10}]},
        {"CgroupParent": "/x"},
    ),
    "restart policy": (
        {"RestartPolicy": {"Name": "always"}},
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4}},
        {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 4}},
        {"RestartPolicy": {"Name": "", "MaximumRetryCount": 4}},
        {"RestartPolicy": {"Name": "x"}},
        {"RestartPolicy": {"Name": "no"}},
        {},
    ),
    **{name: tuple({name: value} for value in values) for name, values in LIMITS.items()},
}
