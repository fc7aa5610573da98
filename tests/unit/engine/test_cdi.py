"""CDI devices: which file counts, what they change of config.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from corten.engine import cdi
from corten.engine.cdispec import Edits
from corten.errors import CortenError, Internal, InvalidArgument
from corten.spec.docker import DeviceRequest


def write(path: Path, edits: dict[str, Any], *, device: str = "a", common: dict[str, Any] | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    one = {"name": device, "containerEdits": edits}
    spec = {"cdiVersion": "0.8.0", "kind": "v.example/c", "devices": [one], "containerEdits": common or {}}
    path.write_text(json.dumps(spec))


def request(*names: str, **more: Any) -> DeviceRequest:
    return DeviceRequest(driver="cdi", device_ids=list(names), **more)


def test_a_directory_further_back_goes_before_and_the_same_one_twice_is_a_conflict(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    write(first / "a.json", {"env": ["A=1"]})
    registry, directories = cdi.Registry(), (str(first), str(second), str(tmp_path / "none"))
    assert registry.edits([request("v.example/c=a")], directories) == Edits(
        env=["A=1"], device_nodes=[], mounts=[], hooks=[], additional_gids=[]
    )
    write(second / "b.json", {"env": ["A=2"]})
    assert registry.edits([request("v.example/c=a")], directories).env == ["A=2"]
    write(second / "c.yaml", {"env": ["A=3"]})
    found = registry.find(directories)
    assert found.devices == {}
    ((path, said),) = found.errors
    assert (path, said.split(" (")[0]) == (str(second / "c.yaml"), 'conflicting device "v.example/c=a"')
    with pytest.raises(Internal, match=r"^CDI device injection failed: unresolvable CDI devices v.example/c=a$"):
        registry.edits([request("v.example/c=a")], directories)


def test_a_file_is_read_again_when_it_has_changed_and_a_broken_one_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"env": ["A=1"]})
    (tmp_path / "b.yaml").write_text("{")
    os.mkfifo(tmp_path / "c.json")
    (tmp_path / "d.json").symlink_to("/nowhere")
    (tmp_path / "e.json").mkdir()
    (tmp_path / "f.txt").write_text("{")
    registry = cdi.Registry()
    found = registry.find([str(tmp_path)])
    assert list(found.devices) == ["v.example/c=a"]
    assert [os.path.basename(path) for path, _ in found.errors] == ["b.yaml", "c.json", "d.json"]
    write(tmp_path / "a.json", {"env": ["A=1", "B=2"]})
    assert registry.edits([request("v.example/c=a")], [str(tmp_path)]).env == ["A=1", "B=2"]


def test_edits_of_a_file_come_once_in_front_of_its_devices(tmp_path: Path) -> None:
    spec = {
        "cdiVersion": "0.8.0",
        "kind": "v.example/c",
        "devices": [{"name": name, "containerEdits": {"env": [f"{name}=1"]}} for name in "ab"],
        "containerEdits": {"env": ["ALL=1"]},
    }
    (tmp_path / "a.json").write_text(json.dumps(spec))
    edits = cdi.Registry().edits([request("v.example/c=b", "v.example/c=a")], [str(tmp_path)])
    assert edits.env == ["ALL=1", "b=1", "a=1"]


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        (request("v.example/c=x", "y"), Internal, "unresolvable CDI devices v.example/c=x, y"),
        (request(count=1), InvalidArgument, "unexpected count in CDI device request"),
        (request(options={"a": "b"}), InvalidArgument, "unexpected options in CDI device request"),
    ],
)
def test_a_request_that_nobody_serves(asked: DeviceRequest, kind: type[CortenError], text: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        cdi.Registry().edits([asked], [str(tmp_path)])
    assert caught.value.text.endswith(text)


def test_without_directories_there_are_no_devices() -> None:
    assert cdi.Registry().edits([request()], ()) == Edits()
    with pytest.raises(Internal, match="no CDI specification directories specified"):
        cdi.Registry().edits([request("v.example/c=a")], ())


def config() -> dict[str, Any]:
    return {
        "process": {"env": ["PATH=/bin", "A=0"], "user": {"uid": 5, "gid": 0, "additionalGids": [9]}},
        "mounts": [{"destination": "/a/b", "source": "x"}, {"destination": "/etc/hosts", "source": "y"}],
        "linux": {"devices": [{"path": "/dev/card", "type": "c"}], "resources": {"devices": [{"allow": False}]}},
    }


def test_everything_of_a_device_is_in_config_json(tmp_path: Path) -> None:
    edits = {
        "env": ["A=1", "B=2"],
        "deviceNodes": [
            {"path": "/dev/card", "hostPath": "/dev/null", "permissions": "rw", "gid": 4},
            {"path": "/dev/own", "type": "c", "major": 300, "minor": 4, "permissions": "none"},
        ],
        "mounts": [
            {"hostPath": "/lib/driver", "containerPath": "/lib/driver", "options": ["ro", "bind"]},
            {"hostPath": "/other", "containerPath": "/etc/hosts/", "type": "bind"},
        ],
        "hooks": [{"hookName": "createContainer", "path": "/bin/ldconfig", "args": ["ldconfig"], "timeout": 2}],
        "additionalGids": [0, 9, 10, 10],
        "intelRdt": {"closID": "c"},
    }
    write(tmp_path / "a.json", edits)
    found = cdi.Registry().edits([request("v.example/c=a")], [str(tmp_path)])
    made = config()
    cdi.apply(made, found, cdi.nodes(found))
    assert made["process"] == {
        "env": ["PATH=/bin", "A=1", "B=2"],
        "user": {"uid": 5, "gid": 0, "additionalGids": [9, 10]},
    }
    assert made["mounts"] == [
        {"destination": "/a/b", "source": "x"},
        {"destination": "/lib/driver", "source": "/lib/driver", "options": ["ro", "bind"]},
        {"destination": "/etc/hosts/", "source": "/other", "options": [], "type": "bind"},
    ]
    assert made["linux"]["devices"] == [
        {"path": "/dev/card", "type": "c", "major": 1, "minor": 3, "gid": 4, "uid": 5},
        {"path": "/dev/own", "type": "c", "major": 300, "minor": 4, "uid": 5},
    ]
    assert made["linux"]["resources"]["devices"] == [
        {"allow": False},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
    ]
    assert made["hooks"] == {"createContainer": [{"path": "/bin/ldconfig", "args": ["ldconfig"], "timeout": 2}]}
    assert made["linux"]["intelRdt"] == {"closID": "c"}


def test_no_device_changes_nothing() -> None:
    made = config()
    cdi.apply(made, Edits(), [])
    assert made == config()


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({"path": "/dev/nowhere"}, 'failed to stat CDI host device "/dev/nowhere": no such file or directory'),
        ({"path": "/etc/hostname"}, 'failed to stat CDI host device "/etc/hostname": invalid device node'),
        ({"path": "/dev/null", "type": "b"}, 'CDI device ("/dev/null", "/dev/null"), host type mismatch (b, c)'),
    ],
)
def test_a_node_that_the_host_does_not_have(node: dict[str, Any], text: str, tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"deviceNodes": [node]})
    edits = cdi.Registry().edits([request("v.example/c=a")], [str(tmp_path)])
    with pytest.raises(Internal) as caught:
        cdi.nodes(edits)
    assert caught.value.text == f"CDI device injection failed: failed to inject devices: {text}"
