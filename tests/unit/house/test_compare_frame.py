"""The frame of the comparison with dockerd: what takes options out, what normalizes, what tells a difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.compare import difference
from clients.normal import RULES, Normalizer, matches
from support.stripdoor import Act, Body, Query, Request, Strip, strip

CREATE = "/v1.45/containers/create"


def request(target: str = CREATE, method: str = "POST", body: object = None) -> Request:
    return Request(method, target, [("Content-Length", "0")], json.dumps(body).encode() if body else b"")


@pytest.mark.parametrize(
    ("rule", "given", "left"),
    [
        (Body("Env"), {"Env": ["A=b"], "Cmd": []}, {"Cmd": []}),
        (Body("HostConfig.Memory"), {"HostConfig": {"Memory": 1, "Init": True}}, {"HostConfig": {"Init": True}}),
    ],
)
def test_a_field_is_taken_out_of_the_body(rule: Strip, given: dict[str, object], left: object) -> None:
    one = request(body=given)
    assert strip(one, rule)
    assert json.loads(one.body) == left
    assert f"Content-Length: {len(one.body)}".encode() in one.encode()


def test_a_field_at_its_zero_value_counts_as_not_there() -> None:
    assert not strip(request(body={"HostConfig": {"Memory": 0}}), Body("HostConfig.Memory"))
    assert not strip(request(body={"HostConfig": {}}), Body("HostConfig.Memory"))


def test_one_filter_is_taken_out_and_the_others_stay() -> None:
    one = request('/v1.45/containers/json?all=1&filters={"status":["x"],"name":["y"]}', "GET")
    assert strip(one, Query("filters.status", "/containers/json"))
    assert not strip(one, Query("filters.status", "/containers/json"))
    assert "name" in one.target
    assert "all=1" in one.target


def test_an_act_is_its_method_and_path() -> None:
    assert strip(request("/v1.45/containers/box/pause"), Act("/containers/*/pause"))
    assert not strip(request("/containers/box/pause", "GET"), Act("/containers/*/pause"))
    assert not strip(request("/containers/box/unpause"), Act("/containers/*/pause"))


def test_ids_and_times_are_normalized_and_digests_and_image_times_stay() -> None:
    normal = Normalizer(RULES)
    seen = {
        "Id": "0" * 64,
        "At": "2026-01-02T03:04:05.678Z",
        "Image": f"sha256:{'0' * 64}",
        "Old": "2024-01-01T00:00:00Z",
    }
    shown = normal(seen, Path("/tmp/run"))
    assert shown == {"Id": "<id>", "At": "<time>", "Image": seen["Image"], "Old": seen["Old"]}
    assert sum(normal.hits.values()) == 2


def test_a_field_rule_names_the_end_of_a_place() -> None:
    assert matches(("body", "State", "Pid"), "State.Pid")
    assert not matches(("body", "Pid"), "State.Pid")
    assert matches(("a", "b", "MacAddress"), "*.MacAddress")


def test_a_difference_names_the_place_and_both_values() -> None:
    assert difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == [".a[1].b: dockerd 2, corten 3"]
    assert difference({"a": None}, {}) == [".a: dockerd None, corten '<absent>'"]
    assert difference(True, 1)
    assert not difference([1, "x"], [1, "x"])
