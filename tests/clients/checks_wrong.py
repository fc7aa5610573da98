"""What is refused, in which words, with which exit status: wrong options, requests that are no requests."""

from __future__ import annotations

from typing import Any

from clients.compare import CHECKS, IMAGE, Check, Side, check
from support import images
from support.stripdoor import Act, Body

Json = Any


def wrong(options: str, field: str, *command: str) -> None:
    """A check that `docker run` with these options fails as dockerd fails."""

    def see(side: Side) -> Json:
        words = [word.replace("SHARED", str(side.shared)) for word in options.split()]
        return [
            side.docker("run", "--name", "box", *words, IMAGE, *(command or ("true",))),
            side.docker("ps", "-aq")["stdout"] == "",
        ]

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
wrong("--mount type=bind,source=/none/such,target=/v", "HostConfig.Mounts")
wrong("--mount type=bind,source=SHARED,target=relative", "HostConfig.Mounts")
wrong("--mount type=tmpfs,source=SHARED,target=/t", "HostConfig.Mounts")
wrong("--tmpfs /t:nonesuch=1", "HostConfig.Tmpfs")
wrong("--network nonesuch", "HostConfig.NetworkMode")
wrong("--network container:nobody", "HostConfig.NetworkMode")
wrong("--pid container:nobody", "HostConfig.PidMode")
wrong("--ipc container:nobody", "HostConfig.IpcMode")
wrong("--ipc nonesuch", "HostConfig.IpcMode")


def refused(field: str, value: Json) -> None:
    """A check of a value that the docker CLI would not send."""

    def see(side: Side) -> Json:
        body: Json = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {}}
        part, _, key = field.rpartition(".")
        (body[part] if part else body)[key] = value
        created = side.api("POST", "/containers/create", body, name="box")
        started = side.api("POST", "/containers/box/start") if created["status"] == 201 else None
        return [created, started, side.inspect("box", "State.Status", "State.ExitCode", "State.Error")]

    CHECKS.append(Check(f"create with {field} {value}", see, Body(field)))


refused("HostConfig.Sysctls", {"nonesuch": "1"})
refused("HostConfig.Sysctls", {"kernel.hostname": "x"})
refused("HostConfig.PidMode", "nonesuch")
refused("HostConfig.UTSMode", "nonesuch")
refused("HostConfig.ShmSize", -1)
refused("HostConfig.Ulimits", [{"Name": "nofile", "Soft": 10, "Hard": 5}])
refused("HostConfig.Ulimits", [{"Name": "nonesuch", "Soft": 5, "Hard": 5}])
refused("HostConfig.LogConfig", {"Type": "json-file", "Config": {"nonesuch": "1"}})
refused("HostConfig.LogConfig", {"Type": "json-file", "Config": {"max-size": "nonesuch"}})
refused("HostConfig.RestartPolicy", {"Name": "nonesuch"})
refused("HostConfig.PortBindings", {"80/tcp": [{"HostPort": "99999"}]})
refused("HostConfig.PidsLimit", "many")
refused("HostConfig.Memory", "64m")
refused("Env", ["=x"])
refused("Cmd", {"a": 1})


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


@check("create of an image", Body("Image"))
def image_given(side: Side) -> Json:
    created = side.api("POST", "/containers/create", {"Image": IMAGE}, name="box")
    return [created, side.inspect("box", "Config.Image", "Image")]


@check("create with another content type", Act("/containers/create", status="201 Created"))
def content_type(side: Side) -> Json:
    status, _, body = side.raw("POST", "/containers/create", b'{"Image": "x"}', "text/plain")
    return [status, body.decode()]


@check("create without a command", Body("Cmd"))
def command_missing(side: Side) -> Json:
    """An image without a command, and one request that brings its own."""
    data = images.docker_archive(["bare:1"], images.busybox_layers(), {})
    side.raw("POST", "/images/load", data, "application/x-tar", quiet="1")
    return [side.docker("run", "--rm", "bare:1"), side.docker("run", "--rm", "bare:1", "echo", "own")]
