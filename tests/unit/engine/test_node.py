"""The node's words in containers of the engine: taken where the request is silent, each with its origin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from corten.engine import effective
from corten.engine.effective import Effective
from corten.engine.explaining import explain, node_object
from corten.engine.host import Host
from corten.engine.settings import Settings
from corten.engine.update import updated
from corten.runtime.effective import Node
from corten.spec.docker import ContainerUpdateRequest, Ulimit
from corten.spec.docker_parse import parse_create
from corten.spec.image import RunConfig

FILE = "/etc/corten/runtime.json"
RULE: dict[str, Any] = {"names": ["mkdir", "io_uring_setup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
NODE = Node(
    FILE,
    rlimits=(("RLIMIT_CORE", 0, 1), ("RLIMIT_NOFILE", 64, 128)),
    masked_paths=("/proc/kallsyms", "/proc/keys"),  # the second is Docker's already
    seccomp=(RULE,),
)
Decide = Callable[..., Effective]
Spec = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The same with a node's file."""
    return replace(settings, node=NODE, default_pids_limit=9, origins={"default-pids-limit": FILE})


def named(spec: dict[str, Any], call: str) -> list[dict[str, Any]]:
    """The rules for a system call, without its companions."""
    return [
        {key: value for key, value in rule.items() if key != "names"}
        for rule in spec["linux"]["seccomp"]["syscalls"]
        if call in rule["names"]
    ]


def test_a_silent_request_takes_every_word(spec: Spec) -> None:
    made = spec()
    limits = made["process"]["rlimits"]
    assert limits == [
        {"type": "RLIMIT_CORE", "hard": 1, "soft": 0},
        {"type": "RLIMIT_NOFILE", "hard": 128, "soft": 64},
    ]
    assert made["linux"]["maskedPaths"][-1] == "/proc/kallsyms"
    assert made["linux"]["maskedPaths"].count("/proc/keys") == 1
    for call in RULE["names"]:
        assert named(made, call) == [{"action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    assert named(made, "mkdirat") == [{"action": "SCMP_ACT_ALLOW"}]


def test_a_limit_of_the_request_goes_before_the_nodes(spec: Spec) -> None:
    made = spec(HostConfig={"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}]})
    assert made["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "hard": 6, "soft": 5},
        {"type": "RLIMIT_CORE", "hard": 1, "soft": 0},
    ]


def test_masked_paths_of_the_request_are_not_added_to(decide: Decide, spec: Spec) -> None:
    assert spec(HostConfig={"MaskedPaths": ["/proc/acpi"]})["linux"]["maskedPaths"] == ["/proc/acpi"]
    unconfined = decide(HostConfig={"MaskedPaths": [], "ReadonlyPaths": []})  # systempaths=unconfined
    assert unconfined.host.masked_paths == []
    assert "maskedPaths" not in unconfined.node


def test_a_profile_of_the_request_and_none_at_all_stay_as_they_are(spec: Spec) -> None:
    profile = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}'
    mine = spec(HostConfig={"SecurityOpt": [f"seccomp={profile}"]})
    assert mine["linux"]["seccomp"]["syscalls"] == []
    assert "seccomp" not in spec(HostConfig={"SecurityOpt": ["seccomp=unconfined"]})["linux"]
    default = spec(HostConfig={"SecurityOpt": ["seccomp=builtin"]})
    assert named(default, "mkdir") == [{"action": "SCMP_ACT_ERRNO", "errnoRet": 38}]


def test_a_privileged_container_takes_limits_alone(decide: Decide, spec: Spec) -> None:
    assert set(decide(HostConfig={"Privileged": True}).node) == {"rlimits"}
    made = spec(HostConfig={"Privileged": True})
    assert not {"seccomp", "maskedPaths"} & set(made["linux"])
    profile = decide(HostConfig={"Privileged": True, "SecurityOpt": ["seccomp=builtin"]})
    assert set(profile.node) == {"rlimits", "seccomp"}


def test_explain_has_a_row_for_each_word(decide: Decide) -> None:
    rows = [(row["field"], row["value"]) for row in explain(decide()) if row["origin"] == FILE]
    assert rows == [
        ("HostConfig.PidsLimit", 9),
        ("Corten.rlimits", "RLIMIT_CORE 0:1"),
        ("Corten.rlimits", "RLIMIT_NOFILE 64:128"),
        ("Corten.maskedPaths", "/proc/kallsyms"),
        ("Corten.seccomp", "mkdir io_uring_setup: SCMP_ACT_ERRNO"),
    ]
    masks = next(row for row in explain(decide()) if row["field"] == "HostConfig.MaskedPaths")
    assert masks["origin"] == f"built-in, {FILE}"


def test_inspect_says_it_in_the_words_of_the_runtimes_state(decide: Decide) -> None:
    assert node_object(decide()) == {
        "Corten": {
            "pidsLimit": {"value": 9, "origin": FILE},
            "rlimits": [
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 1, "origin": FILE},
                {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128, "origin": FILE},
            ],
            "maskedPaths": [{"path": "/proc/kallsyms", "origin": FILE}],
            "seccomp": [{**RULE, "origin": FILE}],
        }
    }


def test_inspect_has_the_limit_of_daemon_json_alone(decide: Decide) -> None:
    made = replace(decide(), node={}, origins={"HostConfig.PidsLimit": "daemon.json"})
    assert node_object(made) == {"Corten": {"pidsLimit": {"value": 9, "origin": "daemon.json"}}}


def test_inspect_is_dockers_where_the_node_said_nothing(
    decide: Decide, machine: Host, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    made = replace(decide(HostConfig={"PidsLimit": 3}), node={})
    assert node_object(made) == {}
    assert node_object(updated(made, ContainerUpdateRequest(pids_limit=4), machine)) == {}


def test_an_updated_limit_is_not_the_nodes_any_more(decide: Decide, machine: Host) -> None:
    made = decide()
    shown = node_object(updated(made, ContainerUpdateRequest(pids_limit=4), machine))
    assert shown["Corten"]["pidsLimit"] == {"value": 4, "origin": "update"}


def test_a_record_keeps_what_was_taken(decide: Decide) -> None:
    made = decide()
    again = msgspec.json.decode(msgspec.json.encode(made), type=effective.Effective)
    assert again.node == made.node
    old = msgspec.json.decode(msgspec.json.encode(made))
    del old["node"]
    assert msgspec.convert(old, type=effective.Effective).node == {}


class TestDaemonUlimits:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """The same with default-ulimits in daemon.json."""
        ulimits = {name: Ulimit(name=name, soft=2, hard=-1) for name in ("nofile", "nproc")}
        return replace(
            settings, default_ulimits=ulimits, origins={**settings.origins, "default-ulimits": "daemon.json"}
        )

    def test_they_go_before_the_nodes_and_behind_the_requests(self, decide: Decide) -> None:
        made = decide(HostConfig={"Ulimits": [{"Name": "nproc", "Soft": 5, "Hard": 6}]})
        assert made.node["rlimits"] == [
            {"type": "RLIMIT_NOFILE", "soft": 2, "hard": (1 << 64) - 1, "origin": "daemon.json"},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 1, "origin": FILE},
        ]
        assert [item.name for item in made.host.ulimits or ()] == ["nproc"]  # as in dockerd's inspect

    def test_they_hold_without_a_nodes_file(self, settings: Settings, machine: Host) -> None:
        request = parse_create(b'{"Image": "busybox", "Cmd": ["true"]}')
        made, _ = effective.decide(request, RunConfig(), replace(settings, node=None), machine, container_id="a" * 64)
        assert [row["type"] for row in made.node["rlimits"]] == ["RLIMIT_NOFILE", "RLIMIT_NPROC"]
        assert list(made.node) == ["rlimits"]
