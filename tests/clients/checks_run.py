"""Every option of `docker run`: what it does to the process, and what inspect says of it."""

from __future__ import annotations

import json
import sys
from typing import Any

from clients.compare import CHECKS, IMAGE, Check, Side, check
from support.stripdoor import Body, Query

Json = Any

CGROUP = "cd /sys/fs/cgroup; cat {v1} {v2} 2>/dev/null; true"


def run(side: Side, options: list[str], command: list[str], *fields: str, stdin: str | None = None) -> Json:
    """`docker run` with a name; what came out, and fields of inspect."""
    seen = side.docker("run", "--name", "box", *options, IMAGE, *command, stdin=stdin)
    return {"run": seen, "inspect": side.inspect("box", *fields)} if fields else seen


def row(options: str, command: str, field: str, *also: str) -> None:
    """A check of run options: `field` is what the door takes out, and what inspect shows (as in the request)."""
    words, script = options.split(), ["sh", "-c", command] if command else []
    shown = field if field.startswith("HostConfig.") else f"Config.{field}"

    def see(side: Side) -> Json:
        words_here = [word.replace("SHARED", str(side.shared)).replace("PARENT", side.parent) for word in words]
        return run(side, words_here, script, shown, *also)

    CHECKS.append(Check(f"run {options}", see, Body(field)))


def cgroup(v1: str, v2: str) -> str:
    """A command that prints a cgroup file from inside, whichever form the machine has."""
    return CGROUP.format(v1=v1, v2=v2)


MEMORY = cgroup("memory/memory.limit_in_bytes", "memory.max")
SWAP = cgroup("memory/memory.memsw.limit_in_bytes", "memory.swap.max")
CAPS = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"

# What the process is.
row("-w /var/tmp", "pwd", "WorkingDir")
row("-w /made/by/engine", "pwd; ls -ld /made/by", "WorkingDir")
row("-u user", "id; pwd; echo $HOME", "User")
row("-u 1000:50", "id", "User")
row("-u user:audio", "id", "User")
row("-u 4242", "id; echo $HOME", "User")
row("--group-add audio --group-add 777", "id", "HostConfig.GroupAdd")
row("--entrypoint /bin/echo", "x", "Entrypoint", "Path", "Args")
row("--hostname marble", "hostname; cat /etc/hostname; grep marble /etc/hosts", "Hostname")
row("--hostname marble --domainname quarry.example", "hostname -f; cat /etc/hostname", "Domainname")
row("--label a=1 --label b", "", "Labels")
row("-t", "test -t 0 && test -t 1 && test -t 2 && echo tty; stat -c %t /proc/self/fd/1", "Tty")
row("--init", "cat /proc/1/comm", "HostConfig.Init")
row("--stop-signal USR1", "true", "StopSignal")
row("--stop-timeout 3", "true", "StopTimeout")
row("--oom-score-adj 321", "cat /proc/self/oom_score_adj", "HostConfig.OomScoreAdj")

# What it may.
row("--cap-add NET_ADMIN", CAPS, "HostConfig.CapAdd")
row("--cap-add CAP_SYS_TIME -u user", CAPS, "HostConfig.CapAdd")
row("--cap-drop CHOWN --cap-drop cap_net_raw", CAPS, "HostConfig.CapDrop")
row("--cap-drop ALL", CAPS, "HostConfig.CapDrop")
row("--cap-drop ALL --cap-add NET_RAW", CAPS, "HostConfig.CapAdd")
row("--security-opt no-new-privileges", CAPS, "HostConfig.SecurityOpt")
row("--security-opt seccomp=unconfined", CAPS, "HostConfig.SecurityOpt")
row("--read-only", "touch /x; touch /dev/shm/x && echo shm", "HostConfig.ReadonlyRootfs")
row("--device /dev/null:/dev/hole:rw", "ls -l /dev/hole; echo x >/dev/hole && echo ok", "HostConfig.Devices")
row("--device /dev/zero:/dev/well:r", "head -c 2 /dev/well | wc -c; echo x >/dev/well", "HostConfig.Devices")
row(
    "--sysctl net.ipv4.ip_unprivileged_port_start=77",
    "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    "HostConfig.Sysctls",
)
row("--sysctl kernel.msgmax=4242", "cat /proc/sys/kernel/msgmax", "HostConfig.Sysctls")
row("--ulimit nofile=100:200 --ulimit core=0", "ulimit -n; ulimit -Hn; ulimit -c", "HostConfig.Ulimits")

# What it may use.
row("--memory 64m", MEMORY, "HostConfig.Memory", "HostConfig.MemorySwap")
row("--memory 64m --memory-swap 96m", SWAP, "HostConfig.MemorySwap")
row("--memory 64m --memory-swap -1", SWAP, "HostConfig.MemorySwap")
row(
    "--memory 64m --memory-reservation 32m",
    cgroup("memory/memory.soft_limit_in_bytes", "memory.low"),
    "HostConfig.MemoryReservation",
)
row("--cpus 0.5", cgroup("cpu/cpu.cfs_quota_us", "cpu.max"), "HostConfig.NanoCpus")
row("--cpu-period 50000 --cpu-quota 20000", cgroup("cpu/cpu.cfs_quota_us", "cpu.max"), "HostConfig.CpuQuota")
row("--cpu-shares 512", cgroup("cpu/cpu.shares", "cpu.weight"), "HostConfig.CpuShares")
row("--cpuset-cpus 0", "grep Cpus_allowed_list /proc/self/status", "HostConfig.CpusetCpus")
row("--pids-limit 77", cgroup("pids/pids.max", "pids.max"), "HostConfig.PidsLimit")
row("--shm-size 3m", "df -k /dev/shm | tail -n 1 | awk '{print $2}'", "HostConfig.ShmSize")
row("--cgroup-parent /PARENT", "cut -d: -f3 /proc/self/cgroup | sort -u", "HostConfig.CgroupParent")

# Its namespaces.
row("--network none", "ls /sys/class/net; cat /etc/hosts", "HostConfig.NetworkMode")
row("--network host", "readlink /proc/1/ns/net | wc -c; ls /sys/class/net | grep -c eth0", "HostConfig.NetworkMode")
row("--pid host", "test $$ -gt 50 && echo host", "HostConfig.PidMode")
row("--ipc none", "ls -d /dev/shm; grep -c /dev/shm /proc/self/mounts", "HostConfig.IpcMode")
row("--ipc shareable", "true", "HostConfig.IpcMode")
row("--uts host", "hostname | wc -l", "HostConfig.UTSMode", "Config.Hostname")

# Its files.
row("--tmpfs /t", "grep ' /t ' /proc/self/mounts; stat -c %a /t", "HostConfig.Tmpfs")
row("--tmpfs /t:size=64k,mode=700,noexec", "grep ' /t ' /proc/self/mounts", "HostConfig.Tmpfs")
row("-v SHARED:/v", "echo out >/v/f; cat /v/f; grep -c ' /v ' /proc/self/mounts", "HostConfig.Binds", "Mounts")
row(
    "-v SHARED:/v:ro",
    "touch /v/x; grep ' /v ' /proc/self/mounts | cut -d' ' -f4 | cut -c1-2",
    "HostConfig.Binds",
    "Mounts",
)
row("-v SHARED/made/by/engine:/v", "ls -ld /v | cut -c1-10", "HostConfig.Binds", "Mounts")
row("--mount type=bind,source=SHARED,target=/v", "touch /v/ok && ls /v", "HostConfig.Mounts", "Mounts")
row("--mount type=bind,source=SHARED,target=/v,readonly", "touch /v/x", "HostConfig.Mounts", "Mounts")
row(
    "--mount type=tmpfs,target=/t,tmpfs-size=65536,tmpfs-mode=0710",
    "df -k /t | tail -n 1 | awk '{print $2}'; stat -c %a /t",
    "HostConfig.Mounts",
    "Mounts",
)

# Its runtime.
row("--runtime crun", "echo ran", "HostConfig.Runtime")


def environment(side: Side, *options: str) -> Json:
    """What the process has and what inspect shows; dockerd's order is that of a Go map."""
    seen = run(side, list(options), ["sh", "-c", "env | sort"])
    return [seen, sorted(side.inspect("box", "Config.Env")["Config.Env"])]


@check("run -e", Body("Env"))
def variables(side: Side) -> Json:
    return environment(side, "-e", "A=b", "-e", "C", "-e", "D=", "-e", "PATH=/bin")


@check("run --env-file", Body("Env"))
def env_file(side: Side) -> Json:
    (side.shared / "env").write_text("# comment\nA=from file\nB\n\nC=  kept  \n")
    return environment(side, "--env-file", f"{side.shared}/env")


@check("run --name", Query("name", "/containers/create"))
def name(side: Side) -> Json:
    side.docker("run", "--name", "granite", IMAGE, "true")
    return side.inspect("granite", "Name")


@check("run -i", Body("OpenStdin"))
def stdin_is_read(side: Side) -> Json:
    return run(side, ["-i"], ["sh", "-c", "cat; echo end"], "Config.OpenStdin", "Config.StdinOnce", stdin="in\nout\n")


@check("run -i without end of line", Body("OpenStdin"))
def stdin_is_kept_as_it_is(side: Side) -> Json:
    return run(side, ["-i"], ["cat"], stdin="no newline")


@check("run --rm", Body("HostConfig.AutoRemove"))
def removed(side: Side) -> Json:
    return [run(side, ["--rm"], ["true"]), side.inspect("box")]


@check("run COMMAND", Body("Cmd"))
def command(side: Side) -> Json:
    return run(side, [], ["echo", "a b", "box"], "Path", "Args", "Config.Cmd")


@check("run --security-opt seccomp=FILE", Body("HostConfig.SecurityOpt"))
def seccomp_file(side: Side) -> Json:
    calls = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}
    (side.shared / "seccomp.json").write_text(json.dumps(profile))
    return run(side, ["--security-opt", f"seccomp={side.shared}/seccomp.json"], ["mkdir", "/x"])


@check("create --privileged", Body("HostConfig.Privileged"))
def privileged(side: Side) -> Json:
    """Created only: where hard limits cannot be raised, dockerd cannot start it."""
    side.docker("create", "--name", "box", "--privileged", IMAGE, "true")
    return side.inspect("box", "HostConfig.Privileged", "HostConfig.SecurityOpt", "HostConfig.MaskedPaths")


@check("run --network container:ID", Body("HostConfig.NetworkMode"))
def network_of_another(side: Side) -> Json:
    side.docker("run", "-d", "--name", "first", "--network", "none", IMAGE, "sleep", "60")
    script = 'test "$(readlink /proc/self/ns/net)" = "$NS" && echo same; hostname | wc -c; cat /etc/hosts'
    inside = side.docker("exec", "first", "readlink", "/proc/self/ns/net")["stdout"].strip()
    return run(side, ["--network", "container:first", "-e", f"NS={inside}"], ["sh", "-c", script])


@check("run --pid container:ID", Body("HostConfig.PidMode"))
def pids_of_another(side: Side) -> Json:
    side.docker("run", "-d", "--name", "first", IMAGE, "sleep", "60")
    return run(side, ["--pid", "container:first"], ["cat", "/proc/1/comm"])


@check("run --ipc container:ID", Body("HostConfig.IpcMode"))
def ipc_of_another(side: Side) -> Json:
    side.docker("run", "-d", "--name", "first", "--ipc", "shareable", IMAGE, "sleep", "60")
    side.docker("exec", "first", "touch", "/dev/shm/there")
    return run(side, ["--ipc", "container:first"], ["ls", "/dev/shm"])


@check("run -p", Body("HostConfig.PortBindings"))
def published(side: Side) -> Json:
    side.docker(
        "run", "-d", "--name", "box", "-p", "127.0.0.1:8099:80", "-p", "0.0.0.0:8098:81/udp", IMAGE, "sleep", "60"
    )
    return [side.docker("port", "box"), side.inspect("box", "HostConfig.PortBindings", "NetworkSettings.Ports")]


@check("run -p 0", Body("HostConfig.PortBindings"))
def published_somewhere(side: Side) -> Json:
    side.docker("run", "-d", "--name", "box", "-p", "127.0.0.1::80", IMAGE, "sleep", "60")
    line = side.docker("port", "box", "80")["stdout"].strip()
    return {"address": line.rpartition(":")[0], "high": line.rpartition(":")[2] > "1024"}


@check("run -p 127.0.0.1:80:80/tcp, connected", Body("HostConfig.PortBindings"))
def published_and_answered(side: Side) -> Json:
    serve = "while true; do echo answer | nc -l -p 80; done"
    side.docker("run", "-d", "--name", "box", "-p", "127.0.0.1:8097:80", IMAGE, "sh", "-c", serve)
    side.until(lambda: "0050" in side.docker("exec", "box", "cat", "/proc/net/tcp", "/proc/net/tcp6")["stdout"])
    return side.inside("busybox", "nc", "-w", "3", "127.0.0.1", "8097")


@check("run -p udp, arriving", Body("HostConfig.PortBindings"))
def published_udp(side: Side) -> Json:
    """Nobody listens in the container; its kernel counts the datagram (NoPorts of /proc/net/snmp)."""
    side.docker("run", "-d", "--name", "box", "-p", "8096:81/udp", IMAGE, "sleep", "60")
    send = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 8096))"
    side.inside(sys.executable, "-c", send)
    counted = "awk '/^Udp:/ {n = $3} END {print n}' /proc/net/snmp"
    side.until(lambda: side.docker("exec", "box", "sh", "-c", counted)["stdout"] == "1\n")
    return side.docker("exec", "box", "sh", "-c", counted)
