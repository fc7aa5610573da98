"""Volumes: named, anonymous, of images and of other containers; their options, removal, events."""

from __future__ import annotations

from typing import Any

from clients.compare import IMAGE, Side, check
from support import images
from support.stripdoor import Act, Body, Query

Json = Any

CREATE = "/containers/create"
MADE = "/volumes/create"
FILLED = "filled:1"


def printed(seen: Json) -> list[Any]:
    """Status, stdout and stderr without the clients' advice."""
    return [seen["status"], seen["stdout"], seen["stderr"].partition("\n\nRun '")[0]]


def load(side: Side) -> None:
    """An image with a volume that has something in it."""
    entries = (
        images.directory("data", 0o750),
        images.Entry("data/f", b"hello", mode=0o640, uid=5, gid=6),
        images.symlink("data/l", "/etc/passwd"),
        images.symlink("way", "/data"),
        images.Entry("file"),
    )
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}}}
    archive = images.docker_archive([FILLED], [*images.busybox_layers(), images.layer(entries)], config)
    side.raw("POST", "/images/load", archive, kind="application/x-tar")


def mounts(side: Side, name: str) -> Json:
    """Sorted by target: dockerd's order is that of a Go map."""
    body = side.inspect(name)["body"]
    return sorted(body["Mounts"], key=lambda one: str(one["Destination"]))


@check("volume create with labels and options", Body("DriverOpts", MADE))
def created(side: Side) -> Json:
    options = ("--label", "a=b", "--label", "c", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m")
    side.docker("volume", "create", *options, "memory")
    side.docker("volume", "create", "plain")
    shown = [one | {"CreatedAt": ""} for one in side.api("GET", "/volumes")["body"]["Volumes"]]
    shown.sort(key=lambda one: str(one["Name"]))
    return [shown, printed(side.docker("run", "--rm", "-v", "memory:/m", IMAGE, "grep", " /m ", "/proc/mounts"))]


@check("volume create that is refused", Act(MADE, status="200 OK"))
def refused(side: Side) -> Json:
    rows: tuple[tuple[str, ...], ...] = (
        ("--opt", "foo=bar", "bad"),
        ("--opt", "type=tmpfs", "bad"),
        ("--opt", "size=1g", "bad"),
        ("x",),
        ("./x",),
    )
    return [printed(side.docker("volume", "create", *row)) for row in rows] + [
        side.api("POST", MADE, body) for body in ({"Name": 1}, {"Name": "q", "Labels": {"a": 1}})
    ]


@check("volume ls with filters", Query("filters.label", "/volumes"))
def listed(side: Side) -> Json:
    for words in (("one",), ("--label", "a=b", "two")):
        side.docker("volume", "create", *words)
    side.docker("create", "--name", "user", "-v", "one:/x", IMAGE)
    rows = ("name=^t", "label=a", "label=a=c", "dangling=true", "dangling=x")
    return [printed(side.docker("volume", "ls", "-q", "-f", row)) for row in rows]


@check("volume rm of what is used, unknown, forced", Query("force", "/volumes/*"))
def removed(side: Side) -> Json:
    side.docker("volume", "create", "one")
    side.docker("create", "--name", "user", "-v", "two:/x", IMAGE)
    rows: tuple[tuple[str, ...], ...] = (("one",), ("two",), ("-f", "two"), ("nope",), ("-f", "nope"))
    return [printed(side.docker("volume", "rm", *row)) for row in rows]


@check("-v name:/path keeps what was written", Body("HostConfig.Binds", CREATE))
def kept(side: Side) -> Json:
    first = side.docker("run", "--rm", "-v", "kept:/x", IMAGE, "sh", "-c", "echo hi > /x/f; stat -c '%a %u' /x")
    return [
        printed(first),
        printed(side.docker("run", "--rm", "-v", "kept:/y", IMAGE, "cat", "/y/f")),
        printed(side.docker("run", "--rm", "-v", "kept:/y:ro", IMAGE, "touch", "/y/g")),
    ]


@check("inspect of every kind of volume", Body("Volumes", CREATE))
def inspected(side: Side) -> Json:
    load(side)
    more = ("--mount", "type=volume,dst=/m", "--mount", "type=volume,src=named,dst=/n,readonly,volume-label=q=r")
    side.docker("create", "--name", "one", "-v", "v1:/x", "-v", "v2:/y:ro,nocopy", "-v", "/anon", *more, FILLED)
    body = side.inspect("one", "HostConfig.Binds", "HostConfig.Mounts", "Config.Volumes")
    shown = side.docker("ps", "-a", "--format", "{{.LocalVolumes}}")["stdout"]
    labels = side.api("GET", "/volumes/named")["body"]["Labels"]
    return [mounts(side, "one"), body, shown, labels]


@check("rm -v and --rm remove anonymous volumes alone", Query("v", "/containers/*"))
def anonymous(side: Side) -> Json:
    seen = []
    side.docker("run", "--rm", "-v", "/x", "-v", "named:/n", IMAGE, "true")
    seen.append(side.docker("volume", "ls", "-q")["stdout"])
    for words in (("rm", "one"), ("rm", "-v", "two")):
        side.docker("create", "--name", words[-1], "-v", "/x", "-v", "named:/n", IMAGE)
        side.docker(*words)
        seen.append(len(side.docker("volume", "ls", "-q")["stdout"].split()))
    return seen


LOOK = "stat -c '%n %a %u %g %F' /data /data/* | sort; cat /data/f"


@check("what the image has is copied into volumes", Body("HostConfig.Binds", CREATE))
def copied(side: Side) -> Json:
    load(side)
    side.docker("run", "--name", "one", FILLED, "true")
    ours = side.docker("run", "--rm", "--volumes-from", "one", IMAGE, "sh", "-c", LOOK)
    named = side.docker("run", "--rm", "-v", "copy:/data", FILLED, "sh", "-c", LOOK)
    again = side.docker("run", "--rm", "-v", "copy:/data", IMAGE, "sh", "-c", LOOK)
    linked = side.docker("run", "--rm", "-v", "linked:/way", FILLED, "ls", "-A", "/way/")
    none = side.docker("run", "--rm", "-v", "none:/data:nocopy", FILLED, "ls", "-A", "/data")
    return [printed(one) for one in (ours, named, again, linked, none)]


@check("volumes of other containers", Body("HostConfig.VolumesFrom", CREATE))
def borrowed(side: Side) -> Json:
    load(side)
    side.docker("create", "--name", "lender", "-v", "named:/n", "-v", "/etc:/host:ro", FILLED)
    script = "cat /data/f; touch /n/x && echo wrote; touch /host/x || echo kept"
    seen = [
        printed(side.docker("run", "--name", "one", "--volumes-from", "lender", IMAGE, "sh", "-c", script)),
        printed(side.docker("run", "--name", "two", "--volumes-from", "lender:ro", IMAGE, "touch", "/n/y")),
        mounts(side, "two"),
    ]
    for ref in ("nope", "lender:nope", "lender:rshared"):
        seen.append(printed(side.docker("create", "--volumes-from", ref, IMAGE)))
    return seen


SUBPATH = "type=volume,src=subs,dst=/x,volume-subpath="


@check("subpaths of a volume", Body("HostConfig.Mounts", CREATE))
def subpaths(side: Side) -> Json:
    script = "mkdir -p /v/a/b; echo in > /v/a/b/f; ln -s a/b /v/in; ln -s /etc /v/out; echo file > /v/file"
    side.docker("run", "--rm", "-v", "subs:/v", IMAGE, "sh", "-c", script)
    paths = ("a/b", "out", "nope", "file", "a,readonly")
    return [
        printed(side.docker("run", "--rm", "--mount", SUBPATH + path, IMAGE, "sh", "-c", "cat /x /x/f; touch /x/t"))
        for path in paths
    ]


@check("mounts that are refused", Act(CREATE, status="200 OK"))
def wrong(side: Side) -> Json:
    binds = ("xy:/", "a/b:/t", "xy:/t:shared", "/t:ro")
    words = (
        "type=volume,dst=/x,readonly",
        "type=volume,dst=/x,volume-subpath=a",
        "type=tmpfs,dst=/t,src=x",
        "type=bind,src=/nonexistent,dst=/t",
    )
    return [
        *(printed(side.docker("create", "-v", bind, IMAGE)) for bind in binds),
        *(printed(side.docker("create", "--mount", word, IMAGE)) for word in words),
        printed(side.docker("create", "-v", "xy:/x", "--tmpfs", "/x", IMAGE)),
    ]


@check("volume prune", Query("filters.all", "/volumes/prune"))
def pruned(side: Side) -> Json:
    side.docker("volume", "create", "named")
    side.docker("volume", "create", "--label", "keep", "kept")
    side.docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "memory")
    side.api("POST", MADE, {})
    side.docker("create", "--name", "user", "-v", "used:/x", IMAGE)
    seen = [side.docker("volume", "prune", "-f")["stdout"].partition("Total")[2]]
    seen.append(len(side.docker("volume", "ls", "-q")["stdout"].split()))
    seen.append(printed(side.docker("volume", "prune", "-af", "--filter", "label!=keep")))
    return [
        *seen,
        side.docker("volume", "ls", "-q")["stdout"],
        side.api("POST", "/volumes/prune", filters='{"x":["y"]}'),
    ]


@check("sizes and links of volumes in system df", Act("/system/df", "GET", "500 Internal Server Error"))
def sizes(side: Side) -> Json:
    side.docker("run", "--name", "user", "-v", "sized:/x", IMAGE, "sh", "-c", "head -c 12345 /dev/zero > /x/f")
    side.docker("volume", "create", "idle")
    rows = side.api("GET", "/system/df", type="volume")["body"]["Volumes"]
    lines = side.docker("system", "df")["stdout"].splitlines()
    return [{row["Name"]: row["UsageData"] for row in rows}, [line for line in lines if "Volumes" in line]]


@check("events of volumes", Body("HostConfig.Binds", CREATE))
def told(side: Side) -> Json:
    side.docker("volume", "create", "evented")
    side.docker("run", "--rm", "-v", "evented:/x:ro", IMAGE, "true")
    side.docker("volume", "rm", "evented")
    line = "{{.Type}} {{.Action}} {{json .Actor.Attributes}}"
    with side.beside("events", "--since", "60s", "--filter", "volume=evented", "--format", line) as events:
        side.until(lambda: "destroy" in events.printed()[0])
        return events.printed()[0].splitlines()[-4:]


@check("update of a volume needs a swarm", Act("/volumes/*", "PUT", "200 OK"))
def updated(side: Side) -> Json:
    side.docker("volume", "create", "one")
    return side.api("PUT", "/volumes/one", {}, version="1")
