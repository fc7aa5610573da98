"""What is refused, in which words, with which exit status: `docker run` with wrong options, requests that are no requests."""

from __future__ import annotations

from typing import Any

from clients.compare import CHECKS, IMAGE, Check, Side, check
from support.stripdoor import Act, Body

Json = Any


def wrong(options: str, field: str, *command: str) -> None:
    """A check that `docker run` with these options fails as dockerd fails."""

    def see(side: Side) -> Json:
        words = [word.replace("SHARED", str(side.shared)) for word in options.split()]
        return [side.docker("run", "--name", "box", *words, IMAGE, *(command or ("true",))), side.docker("ps", "-aq")["stdout"] == ""]

    CHECKS.append(Check(f"run {options}, refused", see, Body(field)))


wrong("-m 1m", "HostConfig.Memory")
wrong("-m 64m --memory-swap 32m", "HostConfig.MemorySwap")
wrong("--memory-swap 64m", "HostConfig.MemorySwap")
wrong("--memory-reservation 128m -m 64m", "HostConfig.MemoryReservation")
wrong("--cpus 4096", "HostConfig.NanoCpus")
wrong("--cpu-period 10", "HostConfig.CpuPeriod")
wrong("--cpu-quota 10", "HostConfig.CpuQuota")
wrong("--cpuset-cpus 999", "HostConfig.CpusetCpus")
wrong("--cpuset-cpus x", "HostConfig.CpusetCpus")
wrong("--cap-add NONESUCH", "HostConfig.CapAdd")
wrong("--cap-drop NONESUCH", "HostConfig.CapDrop")
wrong("--security-opt nonesuch=1", "HostConfig.SecurityOpt")
wrong("--oom-score-adj 5000", "HostConfig.OomScoreAdj")
wrong("--shm-size 0", "HostConfig.ShmSize")
wrong("--sysctl nonesuch=1", "HostConfig.Sysctls")
wrong("--sysctl kernel.hostname=x", "HostConfig.Sysctls")
wrong("--runtime nonesuch", "HostConfig.Runtime")
wrong("--stop-signal NONESUCH", "StopSignal")
wrong("-w relative", "WorkingDir")
wrong("-u nobody-here", "User")
wrong("-u 4294967296", "User")
wrong("--group-add nobody-here", "HostConfig.GroupAdd")
wrong("--device /dev/nonesuch", "HostConfig.Devices")
wrong("-v relative/path:/v", "HostConfig.Binds")
wrong("-v SHARED:relative", "HostConfig.Binds")
wrong("-v SHARED:/v:nonesuch", "HostConfig.Binds")
wrong("-v SHARED:/", "HostConfig.Binds")
wrong("-v SHARED:/v -v SHARED:/v", "HostConfig.Binds")
wrong("--mount type=bind,source=/none/such,target=/v", "HostConfig.Mounts")
wrong("--mount type=bind,source=SHARED,target=relative", "HostConfig.Mounts")
wrong("--mount type=tmpfs,source=SHARED,target=/t", "HostConfig.Mounts")
wrong("--tmpfs /t:nonesuch=1", "HostConfig.Tmpfs")
wrong("--network nonesuch", "HostConfig.NetworkMode")
wrong("--network container:nobody", "HostConfig.NetworkMode")
wrong("--pid container:nobody", "HostConfig.PidMode")
wrong("--ipc container:nobody", "HostConfig.IpcMode")
wrong("--ipc nonesuch", "HostConfig.IpcMode")
wrong("--pid nonesuch", "HostConfig.PidMode")
wrong("--uts nonesuch", "HostConfig.UTSMode")
wrong("--hostname bad_host!name", "Hostname")
wrong("--ulimit nofile=10:5", "HostConfig.Ulimits")


@check("run of an image that is not there", Act("/containers/create", status="201 Created"))
def no_image(side: Side) -> Json:
    return side.docker("run", "--pull", "never", "nonesuch:1", "true")


@check("run of an image name that is no name", Act("/containers/create", status="201 Created"))
def bad_image(side: Side) -> Json:
    return side.api("POST", "/containers/create", {"Image": "Bad:Name:1", "Cmd": ["true"]})


@check("run -p of a port that is taken", Body("HostConfig.PortBindings"))
def port_taken(side: Side) -> Json:
    side.docker("run", "-d", "--name", "first", "-p", "127.0.0.1:8095:80", IMAGE, "sleep", "60")
    seen = side.docker("run", "-d", "--name", "second", "-p", "127.0.0.1:8095:80", IMAGE, "sleep", "60")
    return [seen, side.inspect("second", "State.Status", "State.ExitCode", "State.Error")]


@check("create with a body that is no JSON", Act("/containers/create", status="201 Created"))
def no_json(side: Side) -> Json:
    return [side.raw("POST", "/containers/create", body)[0] for body in (b"{", b"[]", b"null", b"\xff")]


@check("create without an image", Body("Image"))
def image_missing(side: Side) -> Json:
    return [side.api("POST", "/containers/create", {"Cmd": ["true"]}), side.api("POST", "/containers/create", {"Image": IMAGE})["status"]]


@check("create with another content type", Act("/containers/create", status="201 Created"))
def content_type(side: Side) -> Json:
    status, _, body = side.raw("POST", "/containers/create", b'{"Image": "x"}', "text/plain")
    return [status, body.decode()]


@check("create without a command", Body("Cmd"))
def command_missing(side: Side) -> Json:
    """An image without a command, and one request that brings its own."""
    from support import images  # noqa: PLC0415  # only here

    data = images.docker_archive(["bare:1"], images.busybox_layers(), {})
    side.raw("POST", "/images/load", data, "application/x-tar", quiet="1")
    return [side.docker("run", "--rm", "bare:1"), side.docker("run", "--rm", "bare:1", "echo", "own")]
