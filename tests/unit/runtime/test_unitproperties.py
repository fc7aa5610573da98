"""A container's unit: its name, its slice, what systemd is told of its limits, what a bundle may set of it."""

from __future__ import annotations

from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.runtime import unitproperties as units
from corten.spec.resources import parse_resources

INFINITY = (1 << 64) - 1


@pytest.mark.parametrize(
    ("path", "name", "slice", "cgroup"),
    [
        ("", "corten-box.scope", "system.slice", "/system.slice/corten-box.scope"),
        ("system.slice:docker:1234", "docker-1234.scope", "system.slice", "/system.slice/docker-1234.scope"),
        (":runc:a", "runc-a.scope", "system.slice", "/system.slice/runc-a.scope"),
        ("-.slice:p:a", "p-a.scope", "-.slice", "/p-a.scope"),
        ("a-b-c.slice:p:n", "p-n.scope", "a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
    ],
)
def test_a_path_names_slice_prefix_and_name(path: str, name: str, slice: str, cgroup: str) -> None:
    unit = units.unit_of(path, "box")
    assert (unit.name, unit.slice, unit.path) == (name, slice, cgroup)


@pytest.mark.parametrize("path", ["/a/b", "a.slice:b", "a:b:c:d", "/"])
def test_another_form_is_refused_in_the_words_of_runc(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        units.unit_of(path, "box")
    assert caught.value.text == (
        f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{path}" instead'
    )


@pytest.mark.parametrize("slice", ["a", ".slice", "a--b.slice", "-a.slice", "a/b.slice", "a-.slice", "../x.slice"])
def test_what_is_no_slice_is_refused(slice: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid slice name: "):
        units.unit_of(f"{slice}:p:n", "box")


@pytest.mark.parametrize("path", ["a.slice:p:", "a.slice:p:../../n", "a.slice:p/q:n", "a.slice:p:n.slice"])
def test_what_is_no_scope_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        units.unit_of(path, "box")


# resources, properties but for TasksMax
LIMITS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    (
        {"memory": {"limit": 100, "swap": 300, "reservation": 50}},
        {"MemoryMax": 100, "MemorySwapMax": 200, "MemoryLow": 50},
    ),
    ({"memory": {"limit": 100, "swap": 100}}, {"MemoryMax": 100, "MemorySwapMax": 0}),
    ({"memory": {"limit": -1}}, {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
    ({"memory": {"limit": 100, "swap": -1}}, {"MemoryMax": 100, "MemorySwapMax": INFINITY}),
    ({"cpu": {"shares": 512}}, {"CPUWeight": 20}),
    (
        {"cpu": {"quota": 50000, "period": 100000}},
        {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 500000},
    ),
    ({"cpu": {"quota": 12345}}, {"CPUQuotaPerSecUSec": 130000}),  # 12.345 % are 13
    ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": INFINITY}),
    ({"cpu": {"cpus": "0-2,9", "mems": "0"}}, {"AllowedCPUs": [7, 2], "AllowedMemoryNodes": [1]}),
    ({"unified": {"memory.high": "1000", "cpu.weight": "7"}}, {"MemoryHigh": 1000, "CPUWeight": 7}),
    ({"unified": {"cpu.max": "max 50000"}}, {"CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": INFINITY}),
    (
        {"unified": {"memory.max": "max", "cpuset.cpus": "1", "io.max": "x"}},
        {"MemoryMax": INFINITY, "AllowedCPUs": [2]},
    ),
]


@pytest.mark.parametrize(("resources", "expected"), LIMITS, ids=[str(row[0]) for row in LIMITS])
def test_limits_become_properties(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    found = units.of_resources(parse_resources(resources), None)
    assert {name: value for name, (_, value) in found} == expected


@pytest.mark.parametrize(("limit", "expected"), [(None, None), (0, None), (77, 77), (-1, INFINITY)])
def test_the_limit_of_processes_is_that_of_tasks(limit: int | None, expected: int | None) -> None:
    found = dict(units.of_resources(parse_resources({}), limit))
    assert found.get("TasksMax", ("t", None)) == ("t", expected)


@pytest.mark.parametrize("text", ["x", "3-1", "1,,2", "9999", "²", "1" * 5000])
def test_what_is_no_list_of_processors_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        units.bits(text)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("TimeoutStopUSec", "uint64 123456789", ("TimeoutStopUSec", ("t", 123456789))),
        ("TimeoutStopSec", "90", ("TimeoutStopUSec", ("t", 90_000_000))),
        ("CollectMode", "'inactive-or-failed'", ("CollectMode", ("s", "inactive-or-failed"))),
        ("DefaultDependencies", "true", ("DefaultDependencies", ("b", True))),
        ("After", "['crio.service', 'a.target']", ("After", ("as", ["crio.service", "a.target"]))),
        ("Before", "[]", ("Before", ("as", []))),
    ],
)
def test_an_annotation_sets_a_property(key: str, text: str, expected: object) -> None:
    assert units.of_annotations({f"org.systemd.property.{key}": text, "other": "x"}) == [expected]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("ExecStartPre", "'/bin/sh'"),  # CVE-2024-3154: a container's bundle is not the machine's administrator
        ("Slice", "'system.slice'"),
        ("PIDs", "[1]"),
        ("Delegate", "false"),
        ("DevicePolicy", "'auto'"),
        ("OnFailure", "['x.service']"),
        ("", "1"),
    ],
)
def test_a_property_that_is_not_on_the_list_is_refused(key: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match="may not set this property"):
        units.of_annotations({f"org.systemd.property.{key}": text})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("TimeoutStopUSec", "-1"), ("TimeoutStopUSec", "'1'"), ("CollectMode", "inactive"), ("CollectMode", "'a'b'"),
        ("DefaultDependencies", "yes"), ("After", "'x'"), ("After", "[x]"), ("Description", "'a\nb'"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(key: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match="value parse error"):
        units.of_annotations({f"org.systemd.property.{key}": text})


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_number_of_more_than_64_bits_is_refused(digits: int) -> None:
    for key in ("CPUWeight", "TimeoutStopSec"):
        with pytest.raises(InvalidArgument, match="not of the type t"):
            units.of_annotations({f"org.systemd.property.{key}": "9" * digits})
    with pytest.raises(InvalidArgument, match="is not a number"):
        units._number("pids.max", "9" * digits)


def test_more_seconds_than_systemd_can_count_are_for_ever() -> None:
    assert units.of_annotations({"org.systemd.property.TimeoutStopSec": str(INFINITY)}) == [
        ("TimeoutStopUSec", ("t", INFINITY))
    ]
