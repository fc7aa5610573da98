"""What Docker users do with the images that they have: list, name, remove, prune, and see what they take."""

from __future__ import annotations

import re
from typing import Any

from clients.checks_life import sleeper
from clients.compare import IMAGE, Side, check
from support import images
from support.stripdoor import Act, Query

Json = Any

LIST, PRUNE, DF = "/images/json", "/images/prune", "/system/df"
SHARED = images.layer([images.Entry("shared", b"s" * 5000)])
NAMES = ("--format", "{{.Repository}}:{{.Tag}}")


def small(side: Side, *refs: str, data: bytes, labels: dict[str, str] | None = None, shared: bool = False) -> str:
    """Loads an image of a small layer, over one that several have when it is `shared`; its id."""
    layers = [*([SHARED] if shared else []), images.layer([images.Entry("file", data)])]
    config: Json = {"Cmd": ["/file"], "Labels": labels or None}
    archive = images.docker_archive(refs, layers, config)
    side.raw("POST", "/images/load", archive, "application/x-tar", quiet="1")
    return images.digest(images.image_config(layers, config))


def three(side: Side) -> tuple[str, str, str]:
    """A named image, one that has lost its name to another, and that."""
    kept = small(side, "kept:1", data=b"kept" * 100, shared=True)
    old = small(side, "moved:1", data=b"old" * 100, labels={"age": "old", "keep": "no"}, shared=True)
    new = small(side, "moved:1", data=b"new" * 100, labels={"age": "new"})
    return kept, old, new


def names(side: Side) -> Json:
    """Names and ids of all that is left."""
    return sorted(
        side.docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")["stdout"].split("\n")
    )


def summary(answer: Json) -> Json:
    """A prune's answer; the order of images is the engine's own."""
    body = answer["body"]
    deleted = sorted((next(iter(one.items())) for one in body["ImagesDeleted"] or ()), key=str)
    return [answer["status"], deleted, body["SpaceReclaimed"], body["ImagesDeleted"] is None]


def printed(seen: Json) -> Json:
    """Lines in an order that does not hang on random ids; those of containers are left out."""
    return sorted(line for line in seen["stdout"].splitlines() if not re.fullmatch("[0-9a-f]{64}", line))


# Lists.


@check("images/json with sizes that are shared", Query("shared-size", LIST))
def shared_sizes(side: Side) -> Json:
    three(side)
    answer = side.api("GET", LIST, **{"shared-size": "1"})
    return [answer["status"], sorted(answer["body"], key=lambda row: row["Id"])]


@check("images --filter dangling beside names that moved", Query("filters.dangling", LIST))
def dangling(side: Side) -> Json:
    three(side)
    return {value: sorted(side.docker("images", "--filter", f"dangling={value}", *NAMES)["stdout"].split())
            for value in ("true", "false", "1", "0")}  # fmt: skip


@check("images --filter of two kinds", Query("filters.label", LIST))
def filtered_twice(side: Side) -> Json:
    three(side)
    return [side.docker("images", *(f"--filter={one}" for one in some), "--no-trunc", "-q") for some in (
        ("label=age", "dangling=true"), ("label=age", "label=keep"), ("label=age=new", "reference=mo*"),
        ("label=age", "dangling=false"),
    )]  # fmt: skip


@check("images --filter until", Query("filters.until", LIST))
def listed_until(side: Side) -> Json:
    three(side)
    seen = [side.docker("images", "--filter", f"until={value}", *NAMES) for value in ("2023-01-01", "1h", "x")]
    return [[one["status"], one["stderr"], sorted(one["stdout"].split())] for one in seen]


@check("images --filter before and since of what is not there", Query("filters.before", LIST))
def before_nothing(side: Side) -> Json:
    three(side)
    return [side.docker("images", "--filter", f"{key}=nonesuch", *NAMES) for key in ("before", "since")]


@check("images -a of a list with a name", Query("filters.reference", LIST))
def listed_by_name(side: Side) -> Json:
    three(side)
    return [side.docker("images", "-a", *NAMES, name) for name in ("kept", "kept:1", "kept:2", "KEPT", "moved@x")]


# One image.


@check("image inspect by id, short id, digest and name", Act("/images/*/json", "GET", "500 Internal Server Error"))
def inspected_by_id(side: Side) -> Json:
    kept, _, _ = three(side)
    known = (
        kept,
        kept[7:],
        kept[7:19],
        f"sha256:{kept[7:30]}",
        "kept",
        "kept:1",
        "docker.io/library/kept:1",
        kept[7:8],
    )
    return [
        side.docker("image", "inspect", "-f", "{{.Id}} {{.RepoTags}}", one) for one in (*known, "", "sha256:", "Kept")
    ]


@check("history of an image with empty layers", Act("/images/*/history", "GET", "500 Internal Server Error"))
def history_with_empty_layers(side: Side) -> Json:
    small(side, "kept:1", data=b"x", shared=True)
    return [side.api("GET", "/images/kept:1/history"), side.docker("history", "-q", "kept:1")]


# Names.


@check("tag over a name that another has", Act("/images/*/tag", status="201 Created"))
def tag_moves(side: Side) -> Json:
    kept, _, new = three(side)
    return [side.docker("tag", "kept:1", "moved:1"), side.docker("tag", kept[7:19], "again"), names(side), new]


@check("tag with names that are none", Act("/images/*/tag", status="201 Created"))
def tag_refused(side: Side) -> Json:
    three(side)
    ask = [
        *(
            ("kept:1", "a@sha256:" + "0" * 64, ""),
            ("kept:1", "sha256", "x"),
            ("nonesuch", "a", "b"),
            ("kept:1", "a", "-"),
        ),
        *(("kept:1", "0" * 64, ""), ("kept:1", "a" * 300, "")),
    ]
    return [[side.api("POST", f"/images/{ref}/tag", repo=repo, tag=tag) for ref, repo, tag in ask], names(side)]


@check("tag to a name without a tag, and events", Query("tag", "/images/*/tag"))
def tag_events(side: Side) -> Json:
    three(side)
    side.api("POST", "/images/kept:1/tag", repo="other", tag="2")
    return names(side)


# Removal.


@check("rmi of several, some of them not there", Act("/images/*", "DELETE", "200 OK"))
def several_removed(side: Side) -> Json:
    three(side)
    return [side.docker("rmi", "kept:1", "nonesuch", "moved"), side.docker("rmi", "-f", "nonesuch"), names(side)]


@check("rmi by short id", Act("/images/*", "DELETE", "200 OK"))
def removed_by_short_id(side: Side) -> Json:
    kept, old, _ = three(side)
    return [side.docker("rmi", kept[7:19]), side.docker("rmi", old), names(side)]


@check("rmi of an image with a stopped container", Query("force", "/images/*"))
def removed_under_stopped(side: Side) -> Json:
    kept, _, _ = three(side)
    side.docker("create", "--name", "idle", "kept:1", "/file")
    seen = [side.docker("rmi", "kept:1"), side.docker("rmi", kept[7:19]), side.docker("rmi", "-f", kept[7:19])]
    return [seen, names(side), side.inspect("idle", "Image", "Config.Image")]


@check("rmi -f of an image with a running container", Query("force", "/images/*"))
def removed_under_running(side: Side) -> Json:
    side.docker("tag", IMAGE, "second:1")
    sleeper(side)
    identity = side.docker("image", "inspect", IMAGE, "-f", "{{.Id}}")["stdout"].strip()
    seen = [side.docker("rmi", "-f", identity), side.docker("rmi", IMAGE), side.docker("rmi", "-f", "second:1")]
    return [seen, side.docker("rmi", "-f", IMAGE), names(side)]


@check("rmi of all names, one by one", Act("/images/*", "DELETE", "200 OK"))
def removed_name_by_name(side: Side) -> Json:
    three(side)
    side.docker("tag", "kept:1", "kept:2")
    side.docker("tag", "kept:1", "localhost:5000/team/kept:3")
    order = ("kept:2", "localhost:5000/team/kept:3", "kept", "kept:1")
    return [[side.docker("rmi", name) for name in order], names(side)]


# Prune, df.


@check("image prune, with names that moved", Act(PRUNE))
def pruned(side: Side) -> Json:
    three(side)
    return [summary(side.api("POST", PRUNE)), summary(side.api("POST", PRUNE)), names(side)]


@check("image prune --filter label", Query("filters.label", PRUNE))
def pruned_by_label(side: Side) -> Json:
    three(side)
    first = side.api("POST", PRUNE, filters='{"label":["age=new"],"dangling":["false"]}')
    return [summary(first), names(side)]


@check("image prune --filter label!", Query("filters.label!", PRUNE))
def pruned_without_label(side: Side) -> Json:
    three(side)
    first = side.api("POST", PRUNE, filters='{"label!":["age=old","keep=no"],"dangling":["false"]}')
    return [summary(first), names(side)]


@check("image prune --filter until", Query("filters.until", PRUNE))
def pruned_by_age(side: Side) -> Json:
    three(side)
    ask = ('{"until":["2023-01-01"]}', '{"until":["x"]}', '{"until":["1h","2h"]}', '{"nonsense":["1"]}')
    seen = [side.api("POST", PRUNE, filters=one) for one in (*ask, '{"dangling":["maybe"]}')]
    return [[one["body"].get("message") for one in seen], names(side)]


@check("image prune -a beside containers", Query("filters.dangling", PRUNE))
def pruned_all(side: Side) -> Json:
    three(side)
    side.docker("create", "--name", "idle", "kept:1", "/file")
    sleeper(side)
    return [summary(side.api("POST", PRUNE, filters='{"dangling":["false"]}')), names(side)]


@check("system df", Act(DF, "GET", "500 Internal Server Error"))
def disk_usage(side: Side) -> Json:
    three(side)
    side.docker("create", "--name", "idle", "kept:1", "/file")
    sleeper(side)
    body = side.api("GET", DF)["body"]
    rows = {one["Id"]: [one[key] for key in ("Containers", "SharedSize", "Size")] for one in body["Images"]}
    whole = [body["LayersSize"], len(body["Containers"]), sorted(body), body["Volumes"], body["BuildCache"]]
    return [rows, whole, side.docker("system", "df")["stdout"].splitlines()[:2]]


@check("system df of one kind", Query("type", DF))
def disk_usage_of_a_kind(side: Side) -> Json:
    three(side)
    images_only, nonsense = side.api("GET", DF, type="image"), side.api("GET", DF, type="nonsense")
    return [[key for key, value in images_only["body"].items() if value], nonsense]


@check("system prune", Act("/containers/prune", status="500 Internal Server Error"))
def system_pruned(side: Side) -> Json:
    three(side)
    side.docker("create", "--name", "idle", "kept:1", "/file")
    sleeper(side)
    seen = side.docker("system", "prune", "-f")
    return [seen["status"], printed(seen), names(side), side.docker("system", "prune")]


@check("system prune -a --volumes", Query("filters.dangling", PRUNE))
def system_pruned_all(side: Side) -> Json:
    three(side)
    sleeper(side)
    seen = side.docker("system", "prune", "-a", "--volumes", "-f")
    return [seen["status"], printed(seen), names(side)]
