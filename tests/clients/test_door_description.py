"""The door beside Docker's API description: no operation and no field is missing, and each name is spelled alike."""

from __future__ import annotations

import re

import msgspec
import pytest

from clients import api_description
from corten.docker.head import parse_head
from corten.docker.routes import SERVED, UNSUPPORTED, Router
from corten.spec import docker

# Fields of dockerd's Go types that the description leaves out; each is read so that it can be refused by name.
BEYOND = {
    "HostConfig": {"KernelMemory"},
    "ContainerUpdateRequest": {"KernelMemory"},
    "Mount": {"ClusterOptions"},
    "ExecConfig": {"Detach"},
    "BindOptions": {"IdMap"},  # Corten's own
    "VolumeOptions": {"IdMap"},
}
# In older descriptions, and gone from 1.51.
GONE = {"KernelMemory", "Capabilities"}
# In the description only: dockerd has Init in HostConfig, and its update ignores it.
ELSEWHERE = {"ContainerUpdateRequest": {"Init"}}

NESTED = (
    ("HealthConfig", docker.HealthConfig),
    ("HostConfig", docker.HostConfig),
    ("ContainerConfig", docker.ContainerConfig),
    ("NetworkingConfig", docker.NetworkingConfig),
    ("EndpointSettings", docker.EndpointSettings),
    ("EndpointIPAMConfig", docker.EndpointIPAMConfig),
    ("Mount", docker.Mount),
    ("DeviceMapping", docker.DeviceMapping),
    ("DeviceRequest", docker.DeviceRequest),
    ("ThrottleDevice", docker.ThrottleDevice),
    ("RestartPolicy", docker.RestartPolicy),
    ("PortBinding", docker.PortBinding),
)
BODIES = (
    ("/containers/{id}/exec", docker.ExecConfig),
    ("/exec/{id}/start", docker.ExecStartConfig),
    ("/containers/{id}/update", docker.ContainerUpdateRequest),
)


def fields(cls: type[msgspec.Struct]) -> set[str]:
    return set(cls.__struct_encode_fields__)


def compare(ours: type[msgspec.Struct], theirs: set[str]) -> None:
    theirs = theirs - ELSEWHERE.get(ours.__name__, set())
    beyond = BEYOND.get(ours.__name__, set())
    missing = theirs - fields(ours) - GONE
    assert not missing, f"{ours.__name__} does not know {missing}"
    if api_description.version() >= (1, 51):
        assert fields(ours) - beyond == theirs


@pytest.mark.parametrize(("name", "cls"), NESTED)
def test_a_value_has_the_fields_of_its_definition(name: str, cls: type[msgspec.Struct]) -> None:
    compare(cls, set(api_description.properties(name)))


@pytest.mark.parametrize(("path", "cls"), BODIES)
def test_a_body_has_the_fields_of_its_operation(path: str, cls: type[msgspec.Struct]) -> None:
    compare(cls, set(api_description.body_properties(path)))


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("BindOptions", docker.BindOptions),
        ("VolumeOptions", docker.VolumeOptions),
        ("TmpfsOptions", docker.TmpfsOptions),
        ("ImageOptions", docker.ImageOptions),
    ],
)
def test_the_options_of_mounts_have_the_fields_of_the_description(name: str, cls: type[msgspec.Struct]) -> None:
    schema = api_description.properties("Mount").get(name)
    if schema is None:
        assert api_description.version() < (1, 48)
        return
    compare(cls, set(schema["properties"]))


def test_every_operation_of_the_description_is_served_or_refused_by_name() -> None:
    router = Router()
    unknown = [
        f"{method} {path}"
        for method, path in api_description.operations()
        if router.find(method, sample(path)) is None and not is_hijacked(method, sample(path))
    ]
    assert len(list(api_description.operations())) > 90
    assert not unknown


def test_every_operation_finds_its_own_entry() -> None:
    router = Router()
    known = {(method, re.sub(r"\{\w*\}", "{}", path)) for method, path in api_description.operations()}
    entries = {(method, path): operation for method, path, operation in SERVED}
    for method, path in known & set(entries):
        found = router.find(method, path.replace("{}", "name"))
        assert found is not None
        assert found[0] is entries[method, path], path


def test_nothing_is_both_served_and_refused() -> None:
    served = {(method, path) for method, path, _ in SERVED}
    refused = [(method, path) for method, path, _ in UNSUPPORTED]
    assert not served & set(refused)
    assert len(refused) == len(set(refused))


def sample(path: str) -> str:
    return re.sub(r"\{\w+\}", "name", path)


def is_hijacked(method: str, path: str) -> bool:
    return parse_head(f"{method} {path} HTTP/1.1\r\n\r\n".encode()).is_hijack
