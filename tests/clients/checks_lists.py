"""Lists with their filters, whole inspects, images, system."""

from __future__ import annotations

import gzip
from typing import Any

from clients.checks_life import sleeper
from clients.compare import CHECKS, IMAGE, Check, Side, check
from support import images
from support.stripdoor import Act, Body, Query

Json = Any


# ps.


def population(side: Side) -> None:
    """Four containers, each different in something that a filter asks for."""
    side.docker("run", "--name", "zero", "--label", "color=red", "--label", "only", IMAGE, "true")
    side.docker("run", "--name", "seven", IMAGE, "sh", "-c", "exit 7")
    side.docker("create", "--name", "idle", "-v", f"{side.shared}:/data", "--network", "none", IMAGE)
    sleeper(side, "-p", "127.0.0.1:8091:80", "--label", "color=blue", name="busy")


def ps(side: Side, *args: str) -> Json:
    """Names and states that `docker ps` prints."""
    population(side)
    return side.docker("ps", *args, "--format", "{{.Names}} {{.State}}")


LIST = "/containers/json"
EXPRESSIONS = [  # Go's, wrong ones among them: those match nothing
    *("(a+)+$", "z.r", "^/(zero|idle)$", "(?i)ZERO", r"\Qze\E", r"^/\w{4}$", "[[:alpha:]]{5}", "(?P<x>b)u", "(?U)z.*"),
    *("[", "(", "*e", "e++", "(?=ze)", "(?<!x)e", "e{1001}", r"(z)\1", "[z-a]", r"\pZZ", "**"),
]
FILTERS = {
    "name": ["ze", "^/seven$", "e$", *EXPRESSIONS],
    "label": ["color", "color=red", "only"],
    "status": ["running", "created", "exited"],
    "exited": ["7", "0"],
    "ancestor": [IMAGE, "nonesuch"],
    "before": ["idle"],
    "since": ["seven"],
    "volume": ["/data"],
    "network": ["none", "bridge"],
    "publish": ["8091"],
    "expose": ["80/tcp"],
    "health": ["none"],
    "is-task": ["true"],
}

for filter_name, values in FILTERS.items():

    def filtered(side: Side, name: str = filter_name, values: list[str] = values) -> Json:  # read only
        population(side)
        shown = ("--format", "{{.Names}} {{.State}}")
        return {value: side.docker("ps", "-a", "--filter", f"{name}={value}", *shown) for value in values}

    if filter_name == "health":

        def filtered(side: Side, name: str = filter_name, values: list[str] = values) -> Json:  # read only
            population(side)
            return [
                side.docker("ps", "-aq", "--filter", f"health={value}")["stdout"].count("\n")
                for value in ("none", "healthy")
            ]

    CHECKS.append(Check(f"ps --filter {filter_name}", filtered, Query(f"filters.{filter_name}", LIST)))


@check("ps --filter id", Query("filters.id", LIST))
def filtered_by_id(side: Side) -> Json:
    population(side)
    identity = side.inspect("idle", "Id")["Id"]
    return side.docker("ps", "-a", "--filter", f"id={identity[:9]}", "--format", "{{.Names}}")


@check("ps with a filter that nobody knows", Query("filters", LIST))
def filtered_by_nonsense(side: Side) -> Json:
    return side.docker("ps", "--filter", "nonesuch=1")


@check("ps with a status that nobody knows", Query("filters.status", LIST))
def filtered_by_unknown_status(side: Side) -> Json:
    return side.docker("ps", "--filter", "status=nonesuch")


@check("ps", Act(LIST, "GET", "500 Internal Server Error"))
def listed(side: Side) -> Json:
    population(side)
    return side.docker(
        "ps", "--format", "{{.Image}}|{{.Command}}|{{.Status}}|{{.Ports}}|{{.Names}}|{{.Networks}}|{{.Mounts}}"
    )


@check("ps -a", Query("all", LIST))
def listed_all(side: Side) -> Json:
    return ps(side, "-a")


@check("ps -n", Query("limit", LIST))
def listed_some(side: Side) -> Json:
    return ps(side, "-n", "2")


@check("ps -l", Query("limit", LIST))
def listed_latest(side: Side) -> Json:
    side.docker("create", "--name", "older", IMAGE)
    side.docker("create", "--name", "newer", IMAGE)
    return side.docker("ps", "-l", "--format", "{{.Names}} {{.State}}")


@check("ps -s", Query("size", LIST))
def listed_with_size(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "sh", "-c", "head -c 20000 /dev/zero >/file")
    return side.docker("ps", "-a", "-s", "--format", "{{.Size}}")


@check("containers/json, whole", Query("all", LIST))
def listed_whole(side: Side) -> Json:
    population(side)
    return side.api("GET", LIST, all="1")


# inspect.


@check("inspect, whole, running", Act("/containers/*/start"))
def inspected_running(side: Side) -> Json:
    sleeper(side, "-p", "127.0.0.1:8092:80", "-e", "A=b", "--label", "k=v", "-v", f"{side.shared}:/data:ro")
    return side.inspect("box")


@check("inspect, whole, stopped", Body("Cmd"))
def inspected_stopped(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "sh", "-c", "exit 3")
    return side.inspect("box")


@check("inspect -s", Query("size", "/containers/*/json"))
def inspected_with_size(side: Side) -> Json:
    side.docker("run", "--name", "box", IMAGE, "sh", "-c", "head -c 20000 /dev/zero >/file")
    row = side.api("GET", "/containers/box/json", size="1")["body"]
    return [row.get("SizeRw"), row.get("SizeRootFs", 0) > 1_000_000]


# Images.


def tiny(side: Side, ref: str, *, label: str = "") -> Json:
    """Loads an image of one small layer."""
    layers = [images.layer([images.Entry("file", ref.encode())])]
    config = {"Cmd": ["/file"], "Labels": {label: "1"}} if label else {"Cmd": ["/file"]}
    data = images.docker_archive([ref], layers, config)
    return side.raw("POST", "/images/load", data, "application/x-tar", quiet="1")[0]


@check("load -i", Act("/images/load", status="500 Internal Server Error"))
def loaded(side: Side) -> Json:
    data = images.docker_archive(["tiny:1", "tiny:2"], [images.layer([images.Entry("f", b"x")])], {"Cmd": ["/f"]})
    (side.shared / "tiny.tar").write_bytes(data)
    seen = side.docker("load", "-i", f"{side.shared}/tiny.tar")
    listed = side.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")["stdout"].splitlines()
    return [seen, sorted(listed)]  # dockerd has no order among images of the same date


@check("load of a gzipped archive", Act("/images/load", status="500 Internal Server Error"))
def loaded_gzip(side: Side) -> Json:
    data = images.docker_archive(["tiny:gz"], [images.layer([images.Entry("f", b"x")])], {"Cmd": ["/f"]})
    status, _, answer = side.raw("POST", "/images/load", gzip.compress(data), "application/x-tar", quiet="1")
    return [status, answer.decode(), side.docker("inspect", "tiny:gz", "--format", "{{.Id}} {{.RootFS.Layers}}")]


@check("load of what is no archive", Act("/images/load", status="200 OK"))
def loaded_nonsense(side: Side) -> Json:
    status, _, answer = side.raw("POST", "/images/load", b"no tar at all" * 100, "application/x-tar", quiet="1")
    return [status >= 400 or b"error" in answer, side.docker("images", "-q")["stdout"].count("\n")]


@check("import", Act("/images/create", status="200 OK"))
def imported(side: Side) -> Json:
    data = images.layer([images.Entry("file", b"imported")])
    (side.shared / "root.tar").write_bytes(data)
    seen = side.docker("import", f"{side.shared}/root.tar", "made:1")
    return [seen["status"], side.docker("image", "inspect", "made:1", "--format", "{{.RootFS.Layers}} {{.Os}}")]


@check("import --change", Query("changes", "/images/create"))
def imported_with_changes(side: Side) -> Json:
    (side.shared / "root.tar").write_bytes(images.layer([images.Entry("file", b"imported")]))
    changes = ('CMD ["/file"]', "ENV A=b", "LABEL k=v", "WORKDIR /w", "USER nobody", "EXPOSE 80", "ENTRYPOINT /e")
    words = [word for change in changes for word in ("--change", change)]
    seen = side.docker("import", *words, f"{side.shared}/root.tar", "made:1")
    return [seen["status"], side.docker("image", "inspect", "made:1", "--format", "{{json .Config}}")["stdout"]]


@check("import --message", Query("message", "/images/create"))
def imported_with_message(side: Side) -> Json:
    (side.shared / "root.tar").write_bytes(images.layer([images.Entry("file", b"imported")]))
    side.docker("import", "--message", "from a test", f"{side.shared}/root.tar", "made:1")
    return side.docker("history", "made:1", "--format", "{{.Comment}}|{{.CreatedBy}}|{{.Size}}")


@check("images", Act("/images/json", "GET", "500 Internal Server Error"))
def image_list(side: Side) -> Json:
    tiny(side, "tiny:1")
    return sorted(
        side.docker("images", "--format", "{{.Repository}} {{.Tag}} {{.ID}} {{.Size}}")["stdout"].splitlines()
    )


@check("images/json, whole", Query("filters", "/images/json"))
def image_list_whole(side: Side) -> Json:
    tiny(side, "tiny:1")
    tiny(side, "other:1")
    return side.api("GET", "/images/json", filters='{"reference":["tiny"]}')


@check("images --filter with a wrong pattern", Query("filters.reference", "/images/json"))
def images_by_wrong_pattern(side: Side) -> Json:
    tiny(side, "tiny:1")
    patterns = ("t[", "t[]", "t[]a]", "t[-]", "t[a-", "tiny\\", "x/y[", "tiny[^")
    return [side.docker("images", "--filter", f"reference={one}") for one in patterns]


for image_filter, values in {
    "reference": [
        "tiny:*",
        "tiny",
        "none",
        "*",
        "?iny",
        "t[^x]ny",
        "t[!x]ny",
        "[a-t]iny",
        r"t\iny",
        "**y",
        "*/*",
        "t*:1",
    ],
    "dangling": ["true", "false"],
    "label": ["mark", "mark=1", "mark=2"],
    "before": ["other:1"],
    "since": [IMAGE],
}.items():

    def images_filtered(side: Side, name: str = image_filter, values: list[str] = values) -> Json:  # read only
        tiny(side, "tiny:1", label="mark")
        tiny(side, "other:1")
        shown = ("--format", "{{.Repository}}:{{.Tag}}")
        return {
            value: sorted(side.docker("images", "--filter", f"{name}={value}", *shown)["stdout"].splitlines())
            for value in values
        }

    CHECKS.append(
        Check(f"images --filter {image_filter}", images_filtered, Query(f"filters.{image_filter}", "/images/json"))
    )


@check("image inspect, whole", Act("/images/*/json", "GET", "500 Internal Server Error"))
def image_inspected(side: Side) -> Json:
    return side.api("GET", f"/images/{IMAGE}/json")


@check("image inspect of one that does not exist", Act("/images/*/json", "GET", "500 Internal Server Error"))
def image_not_there(side: Side) -> Json:
    return [side.docker("image", "inspect", "nonesuch"), side.api("GET", "/images/nonesuch/json")]


@check("tag", Act("/images/*/tag", status="201 Created"))
def tagged(side: Side) -> Json:
    seen = side.docker("tag", IMAGE, "localhost:5000/team/name:v1")
    return [seen, side.docker("image", "inspect", "localhost:5000/team/name:v1", "--format", "{{.Id}}")]


@check("tag with a name that is no name", Query("repo", "/images/*/tag"))
def tagged_badly(side: Side) -> Json:
    return [side.docker("tag", IMAGE, "Upper/case"), side.api("POST", f"/images/{IMAGE}/tag", repo="UPPER", tag="1")]


@check("rmi of a tag", Act("/images/*", "DELETE", "200 OK"))
def untagged(side: Side) -> Json:
    side.docker("tag", IMAGE, "second:1")
    return [side.docker("rmi", "second:1"), side.docker("image", "inspect", "second:1", "--format", "{{.Id}}")]


@check("rmi of an image", Act("/images/*", "DELETE", "200 OK"))
def image_removed(side: Side) -> Json:
    tiny(side, "tiny:1")
    seen = side.docker("rmi", "tiny:1")
    return [seen, side.docker("images", "-q")["stdout"].count("\n")]


@check("rmi of an image in use", Act("/images/*", "DELETE", "200 OK"))
def image_in_use(side: Side) -> Json:
    data = images.docker_archive(["used:1"], images.busybox_layers(), {"Cmd": ["sleep", "600"]})
    side.raw("POST", "/images/load", data, "application/x-tar", quiet="1")
    side.docker("run", "-d", "--name", "box", "used:1")
    seen = side.docker("rmi", "used:1")
    side.docker("stop", "-t", "0", "box")
    return [seen, side.docker("rmi", "used:1"), side.docker("ps", "-a", "--format", "{{.Image}}")]


@check("rmi -f", Query("force", "/images/*"))
def image_removed_by_force(side: Side) -> Json:
    tiny(side, "tiny:1")
    side.docker("tag", "tiny:1", "tiny:2")
    identity = side.docker("image", "inspect", "tiny:1", "--format", "{{.Id}}")["stdout"].strip()
    return [side.docker("rmi", "-f", identity), side.docker("images", "--format", "{{.Repository}}")["stdout"].split()]


@check("rmi by id of an image with two tags", Act("/images/*", "DELETE", "200 OK"))
def image_with_two_tags(side: Side) -> Json:
    tiny(side, "tiny:1")
    side.docker("tag", "tiny:1", "other:1")
    identity = side.docker("image", "inspect", "tiny:1", "--format", "{{.Id}}")["stdout"].strip()
    return side.docker("rmi", identity)


@check("rmi of an image that does not exist", Act("/images/*", "DELETE", "200 OK"))
def image_unknown(side: Side) -> Json:
    return side.docker("rmi", "nonesuch")


@check("history", Act("/images/*/history", "GET", "500 Internal Server Error"))
def history(side: Side) -> Json:
    return [side.docker("history", "--no-trunc", IMAGE), side.api("GET", f"/images/{IMAGE}/history")]


@check("image prune -a", Query("filters.dangling", "/images/prune"))
def images_pruned(side: Side) -> Json:
    sleeper(side)
    tiny(side, "tiny:1")
    seen = side.docker("image", "prune", "-a", "-f")
    return [seen["status"], side.docker("images", "--format", "{{.Repository}}")["stdout"].split()]


# The image decides, the request overrides.


@check("run of an image with a configuration", Body("Env"))
def image_configuration(side: Side) -> Json:
    layers = images.busybox_layers()
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["env | sort; pwd; id -u; hostname | wc -c"],
        "Env": ["PATH=/bin:/special", "A=image", "B=image"],
        "WorkingDir": "/var/tmp",
        "User": "1000",
        "Labels": {"from": "image"},
        "StopSignal": "SIGUSR1",
        "ExposedPorts": {"80/tcp": {}},
    }
    side.raw("POST", "/images/load", images.docker_archive(["conf:1"], layers, config), "application/x-tar", quiet="1")
    seen = side.docker("run", "--name", "box", "-e", "A=request", "conf:1")
    fields = ("Env", "Cmd", "Entrypoint", "Labels", "StopSignal", "ExposedPorts", "WorkingDir", "User")
    return [seen, side.inspect("box", *(f"Config.{name}" for name in fields))]


# System.


@check("_ping", Act("/_ping", "GET"))
def ping(side: Side) -> Json:
    status, headers, body = side.raw("GET", "/_ping")
    kept = ("Api-Version", "Cache-Control", "Content-Type", "Ostype", "Pragma", "Swarm", "Docker-Experimental")
    return [status, {name: headers.get(name) for name in kept}, body.decode()]


@check("HEAD _ping", Act("/_ping", "HEAD"))
def ping_head(side: Side) -> Json:
    status, headers, body = side.raw("HEAD", "/_ping")
    return [status, headers.get("Ostype"), headers.get("Content-Type"), len(body)]


@check("version", Act("/version", "GET", "500 Internal Server Error"))
def version(side: Side) -> Json:
    answer = side.api("GET", "/version")
    return [answer["status"], {name: answer["body"].get(name) for name in ("Os", "Arch", "KernelVersion")}]


@check("info", Act("/info", "GET", "500 Internal Server Error"))
def info(side: Side) -> Json:
    sleeper(side)
    side.docker("create", "--name", "idle", IMAGE)
    body = side.api("GET", "/info")["body"]
    names = ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "Images", "NCPU", "OSType")
    more = ("MemTotal", "KernelVersion", "Architecture", "CgroupDriver", "CgroupVersion", "LoggingDriver")
    return {name: body.get(name) for name in (*names, *more)}


@check("an operation that nobody knows", Act("/nonesuch", "GET"))
def unknown_page(side: Side) -> Json:
    return [side.api("GET", "/nonesuch"), side.api("PUT", "/containers/json")["status"]]
