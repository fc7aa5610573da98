"""Every JSON answer of the API against Docker's published description: names, types, what must be there."""

from __future__ import annotations

import fnmatch
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

from clients import api_description
from clients.answer_schema import answer_problems, problems
from clients.api import Api, Connection
from corten.docker.routes import SERVED
from corten.docker.versions import version_text
from support import images, summary
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF

# (METHOD path*, problem*): what the description says is not what dockerd does, or it is ours
KNOWN = (
    ("*", ".HostConfig.MemorySwappiness: null", "a pointer in dockerd: null is the machine's value"),
    ("GET /exec/{id}/json", ".ExitCode: null", "a pointer in dockerd: null until it ends"),
    ("POST /containers/{id}/resize", "status 400*", "as dockerd does"),
    ("POST /containers/{id}/rename", "status 400*", "as dockerd does"),
    ("POST /containers/{id}/exec", "status 400*", "as dockerd does"),
    ("POST /containers/{id}/*pause", "status 409*", "as dockerd does"),
    ("GET /events", ".status: not described", "as dockerd does: what it was called before API 1.22"),
    ("GET /events", ".id: not described", "as dockerd does"),
    ("GET /events", ".from: not described", "as dockerd does"),
    ("POST /volumes/create", "status 400*", "as dockerd does"),
    ("POST /networks/create", "status 409*", "as dockerd does"),
    ("POST /networks/{id}/disconnect", "status 400*", "as dockerd does where no container is named"),
    ("GET /system/df", "*.SizeLog: not described", "ours: what logs take"),
    ("GET /system/df", ".ContentSize: not described", "ours: what packed layers take"),
    ("GET /containers/{id}/stats", ".corten: not described", "ours: pressure, throttling, peaks"),
    ("GET /containers/{id}/json", ".Corten: not described", "ours: what the node says, and where values are from"),
)
# operations without a JSON answer of their own to look at here: why
ELSEWHERE = {
    "GET /containers/{id}/logs": "frames",
    "GET /containers/{id}/export": "an archive",
    "GET /images/{name}/get": "an archive",
    "GET /images/get": "an archive",
    "POST /images/load": "progress, which the description leaves open",
    "POST /images/create": "progress, which the description leaves open",
    "POST /images/{name}/push": "progress, which the description leaves open",
    "GET /distribution/{name}/json": "needs a registry: tests/system/test_registries.py",
    "POST /auth": "needs a registry: tests/clients/test_login.py",
    "GET /_ping": "no JSON",
    "HEAD /_ping": "no body",
    "HEAD /containers/{id}/archive": "no body",
}


@dataclass
class Talk:
    """An engine, and everything that was wrong with what it answered."""

    api: Api
    wrong: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def __call__(self, method: str, path: str, body: Any = None, query: str = "", **names: str) -> Any:
        """One request: the path as the description has it, with `names` put in.  The answer, whatever it is."""
        target = path
        for name, value in names.items():
            target = target.replace(f"{{{name}}}", quote(value, safe=""))
        status, answer = self.api.call(method, target + query, body)
        operation = f"{method} {path}"
        self.asked.add(operation)
        found = [f"{operation} {status} {problem}" for problem in answer_problems(method, path, status, answer)]
        self.wrong += [line for line in found if line not in self.wrong and not is_known(line)]
        return answer


def is_known(line: str) -> bool:
    """Whether a row of KNOWN speaks of it."""
    return any(fnmatch.fnmatchcase(line, f"{operation} * {problem}") for operation, problem, _ in KNOWN)


@pytest.fixture(scope="module")
def talk(shared_engine: CortenEngine) -> Iterator[Talk]:
    """Speaks the version of the description."""
    made = Talk(Api(shared_engine.socket, version_text(api_description.version())))
    yield made
    for name in ("schema-full", "schema-plain", "schema-other"):
        made.api.remove(name)
    made.api.call("DELETE", "/images/schema%2Fmade:1?force=1")
    made.api.call("DELETE", "/networks/schema-network")


FULL = {
    "Image": IMAGE,
    "Cmd": ["sh", "-c", "echo out; sleep 600"],
    "Env": ["A=b"],
    "Labels": {"k": "v"},
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9, "StartPeriod": 10**9},
    "StopSignal": "SIGTERM",
    "StopTimeout": 1,
    "Volumes": {"/anonymous": {}},
    "HostConfig": {
        "Memory": 64 << 20,
        "CpuShares": 300,
        "CapAdd": ["NET_ADMIN"],
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        "Binds": ["/tmp:/host:ro", "schema-volume:/named"],
        "Mounts": [{"Type": "tmpfs", "Target": "/memory", "TmpfsOptions": {"SizeBytes": 65536}}],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/hole", "CgroupPermissions": "r"}],
        "Sysctls": {"net.ipv4.ip_default_ttl": "70"},
        "ExtraHosts": ["one:10.0.0.1"],
    },
}


def test_answers_of_every_operation_are_of_their_schema(talk: Talk) -> None:
    containers(talk)
    execs(talk)
    lists(talk)
    what_changes(talk)
    networks(talk)
    endings(talk)
    nothing_wrong(talk)


def nothing_wrong(talk: Talk) -> None:
    """Fails with all that was wrong so far."""
    found, talk.wrong = talk.wrong, []
    assert not found, "\n".join(found)


def containers(talk: Talk) -> None:
    """A container with a value in nearly every field, one without, one that never ran."""
    talk("POST", "/volumes/create", {"Name": "schema-volume", "Labels": {"a": "b"}})
    talk("POST", "/containers/create", FULL, "?name=schema-full")
    talk("POST", "/containers/create", {"Image": IMAGE, "Cmd": ["true"]}, "?name=schema-plain")
    talk("POST", "/containers/create", {"Image": IMAGE}, "?name=schema-other")
    for name in ("schema-full", "schema-plain"):
        talk("POST", "/containers/{id}/start", id=name)
    talk("POST", "/containers/{id}/start", id="schema-full")
    talk("POST", "/containers/{id}/wait", id="schema-plain")
    for name in ("schema-full", "schema-plain", "schema-other"):
        talk("GET", "/containers/{id}/json", None, "?size=1", id=name)
        talk("GET", "/containers/{id}/changes", id=name)
        talk("GET", "/containers/{id}/stats", None, "?stream=0&one-shot=1", id=name)
    talk("GET", "/containers/{id}/top", id="schema-full")


def execs(talk: Talk) -> None:
    """One that ran, and one that did not."""
    for started in (True, False):
        made = talk("POST", "/containers/{id}/exec", {"Cmd": ["true"]}, id="schema-full")
        if started:
            talk("POST", "/exec/{id}/start", {"Detach": True}, id=made["Id"])
        talk("GET", "/exec/{id}/json", id=made["Id"])


def lists(talk: Talk) -> None:
    """Lists, the system, objects of other kinds."""
    talk("GET", "/containers/json", None, "?all=1&size=1")
    talk("GET", "/images/json", None, "?shared-size=1&all=1")
    talk("GET", "/images/{name}/json", name=IMAGE)
    talk("GET", "/images/{name}/history", name=IMAGE)
    for path in ("/info", "/version", "/system/df", "/volumes", "/networks", "/plugins"):
        talk("GET", path)
    talk("GET", "/volumes/{name}", name="schema-volume")
    for name in ("bridge", "host", "none"):
        talk("GET", "/networks/{id}", id=name)
    events(talk)


def events(talk: Talk) -> None:
    """What has happened so far, line by line."""
    with closing(Connection(talk.api.path, 30)) as connection:
        connection.request("GET", f"/v{talk.api.version}/events?since=0&until={time.time():.3f}")
        lines = connection.getresponse().read().decode().splitlines()
    assert len(lines) > 4
    schema = {"$ref": "#/definitions/EventMessage"}
    talk.asked.add("GET /events")
    found = [f"GET /events 200 {text}" for line in lines for text in problems(schema, json.loads(line))]
    talk.wrong += sorted({line for line in found if not is_known(line)})


def networks(talk: Talk) -> None:
    """A network of one's own, with a container that joins and leaves."""
    subnets = [
        {"Subnet": "10.233.0.0/24", "IPRange": "10.233.0.128/25", "AuxiliaryAddresses": {"a": "10.233.0.200"}},
        {"Subnet": "fd00:233::/64", "Gateway": "fd00:233::9"},
    ]
    body = {"Name": "schema-network", "EnableIPv6": True, "IPAM": {"Config": subnets}, "Labels": {"k": "v"}}
    talk("POST", "/networks/create", body)
    talk("POST", "/networks/create", body)
    joined = {"Container": "schema-full", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.233.0.7"}}}
    talk("POST", "/networks/{id}/connect", joined, id="schema-network")
    talk("GET", "/networks/{id}", id="schema-network")
    talk("GET", "/networks")
    talk("GET", "/containers/{id}/json", id="schema-full")
    talk("GET", "/containers/json", None, "?all=1")
    talk("DELETE", "/networks/{id}", id="schema-network")
    talk("POST", "/networks/{id}/disconnect", {"Container": "schema-full"}, id="schema-network")
    talk("DELETE", "/networks/{id}", id="schema-network")


def what_changes(talk: Talk) -> None:
    """Verbs, of what runs and of what does not."""
    talk("POST", "/containers/{id}/update", {"Memory": 80 << 20, "MemorySwap": 160 << 20}, id="schema-full")
    for verb in ("pause", "unpause"):
        for _ in range(2):
            talk("POST", f"/containers/{{id}}/{verb}", id="schema-full")
    talk("POST", "/containers/{id}/resize", None, "?h=10&w=20", id="schema-full")
    talk("POST", "/containers/{id}/restart", None, "?t=0", id="schema-full")
    talk("POST", "/containers/{id}/kill", id="schema-plain")
    talk("POST", "/containers/{id}/rename", None, "?name=schema-full", id="schema-plain")
    talk("POST", "/commit", {}, "?container=schema-plain&repo=schema/made&tag=1")
    talk("POST", "/images/{name}/tag", None, "?repo=schema/made&tag=2", name="schema/made:1")
    talk("GET", "/images/{name}/json", name="schema/made:2")
    talk("DELETE", "/images/{name}", name="schema/made:2")


def endings(talk: Talk) -> None:
    """Removal, and prunes that spare what other tests have."""
    talk("DELETE", "/containers/{id}", id="schema-full")
    talk("POST", "/containers/{id}/stop", None, "?t=0", id="schema-full")
    talk("POST", "/containers/{id}/stop", None, "?t=0", id="schema-full")
    for name in ("schema-full", "schema-plain", "schema-other"):
        talk("DELETE", "/containers/{id}", None, "?v=1", id=name)
    talk("DELETE", "/volumes/{name}", name="schema-volume")
    only = quote(json.dumps({"label": ["schema=none"]}))
    for kind in ("containers", "images", "volumes", "networks"):
        talk("POST", f"/{kind}/prune", None, f"?filters={only}")
    talk("POST", "/build/prune")


def test_errors_are_of_their_schema(talk: Talk) -> None:
    """What is not there, and what cannot be, for every operation that takes a name."""
    for method, path in served():
        if re.search(r"\{(id|name)\}", path) and f"{method} {path}" not in ELSEWHERE and method != "HEAD":
            name = re.findall(r"\{(\w+)\}", path)[0]
            talk(method, path, {} if method in ("POST", "PUT") else None, **{name: "nonesuch"})
    talk("POST", "/containers/create", {"Image": "nonesuch:1"})
    talk("POST", "/containers/create", {"Image": IMAGE, "HostConfig": {"Memory": 1}})
    talk("POST", "/volumes/create", {"Name": "/"})
    talk("GET", "/containers/json", None, "?filters=nonsense")
    nothing_wrong(talk)


def served() -> list[tuple[str, str]]:
    """Operations of the description that Corten serves, but for the hijacked ones."""
    known = {entry[:2] for entry in SERVED} | {("DELETE", "/images/{}")}
    return [one for one in api_description.operations() if (one[0], re.sub(r"\{\w+\}", "{}", one[1])) in known]


def test_no_operation_is_left_out(talk: Talk) -> None:
    if "GET /containers/json" not in talk.asked:
        lists(talk)
    missing = {f"{method} {path}" for method, path in served()} - talk.asked - set(ELSEWHERE)
    assert not missing
    for operation, problem, why in KNOWN:
        summary.add("answers that are not as the API's description says", f"{operation} {problem}: {why}")
