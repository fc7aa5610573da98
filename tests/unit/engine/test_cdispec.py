"""Files of the Container Device Interface: what is read, what is refused in one line."""

from __future__ import annotations

import json

import pytest

from corten.engine import cdispec as cdi
from corten.errors import InvalidArgument
from corten.spec.cdiname import is_qualified

YAML = """
cdiVersion: "0.7.0"
kind: vendor.example/device
devices:
  - name: 0          # text, though it looks like a number
    containerEdits:
      env: [A=1, B=]
      deviceNodes:
        - path: /dev/card
          hostPath: /dev/null
          permissions: rw
          fileMode: 432
      mounts:
        - {hostPath: /etc/hostname, containerPath: /x, options: [ro, bind]}
      hooks:
        - hookName: createContainer
          path: /bin/true
          args: [true, "1"]
          timeout: 3
      additionalGids: [7, 0]
containerEdits:
  env:
    - COMMON=1
  mounts:
"""


def test_yaml_is_read_by_what_the_fields_are() -> None:
    spec = cdi.parse(YAML.encode(), is_json=False)
    assert spec.devices is not None
    device = spec.devices[0]
    edits = device.container_edits
    assert (spec.kind, device.name, edits.env, edits.additional_gids) == (
        "vendor.example/device",
        "0",
        ["A=1", "B="],
        [7, 0],
    )
    assert edits.device_nodes == [cdi.DeviceNode("/dev/card", "/dev/null", permissions="rw", file_mode=432)]
    assert edits.mounts == [cdi.Mount("/etc/hostname", "/x", ["ro", "bind"])]
    assert edits.hooks == [cdi.Hook("createContainer", "/bin/true", ["true", "1"], timeout=3)]
    assert spec.container_edits == cdi.Edits(env=["COMMON=1"])


def spec(**more: object) -> bytes:
    device = {"name": "a", "containerEdits": {"env": ["A=1"]}}
    return json.dumps({"cdiVersion": "1.0.0", "kind": "v.example/c", "devices": [device]} | more).encode()


def test_json_is_read() -> None:
    assert cdi.parse(spec(), is_json=True).devices == [cdi.Device("a", cdi.Edits(env=["A=1"]))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "failed to unmarshal CDI Spec"),
        (b"{", "failed to unmarshal CDI Spec"),
        (b"[" * 100_000, "failed to unmarshal CDI Spec"),
        (b"\xff\xfe\x00", "failed to unmarshal CDI Spec"),
        (b"- a\n- b\n", "failed to unmarshal CDI Spec"),
        (b"!!python/object/apply:os.system [true]", "failed to unmarshal CDI Spec"),
        (b"kind: a\nkind: b\n", "key 'kind' twice"),
        (b"{[a]: b}\n", "or not text"),
        (b"a: &x [1]\nb: [" + b"*x," * 100 + b"]\n", "too many aliases"),
        (b" " * (cdi.MAX_BYTES + 1), "larger than 1 MiB"),
        (spec(cdiVersion="0.2.0"), 'invalid version "0.2.0"'),
        (spec(cdiVersion="x"), 'invalid version "x"'),
        (spec(cdiVersion="0.6.0", containerEdits={"additionalGids": [1]}), "must be at least v0.7.0"),
        (spec(cdiVersion="0.5.0", annotations={"a": "b"}), "must be at least v0.6.0"),
        (spec(cdiVersion="0.4.0", containerEdits={"deviceNodes": [{"path": "/x", "hostPath": "/y"}]}), "least v0.5.0"),
        (
            spec(cdiVersion="0.3.0", containerEdits={"mounts": [{"hostPath": "/", "containerPath": "/", "type": "y"}]}),
            "must be at least v0.4.0",
        ),
        (spec(kind="x"), 'invalid kind "x"'),
        (spec(kind="../x"), 'invalid kind "../x"'),
        (spec(devices=[]), "no devices"),
        (spec(devices=[{"name": "a"}]), "empty edits"),
        (spec(nonsense=1), "unknown field `nonsense`"),
        (spec(devices=[{"name": "-", "containerEdits": {"env": ["A=1"]}}]), "invalid name"),
        (spec(devices=[{"name": "a", "containerEdits": {"env": ["A=1"]}}] * 2), 'multiple device "a"'),
        (spec(containerEdits={"env": ["=x"]}), "invalid environment variable '=x'"),
        (spec(containerEdits={"deviceNodes": [{"path": ""}]}), "not an absolute path"),
        (spec(containerEdits={"deviceNodes": [{"path": "/x", "type": "q"}]}), 'invalid type "q"'),
        (spec(containerEdits={"deviceNodes": [{"path": "/x", "major": -1}]}), "invalid device number -1:0"),
        (spec(containerEdits={"deviceNodes": [{"path": "/x", "permissions": "rx"}]}), 'invalid permissions "rx"'),
        (spec(containerEdits={"deviceNodes": [{"path": "/x", "uid": 1 << 32}]}), "out of range"),
        (spec(containerEdits={"mounts": [{"hostPath": "", "containerPath": "/x"}]}), "empty host path"),
        (spec(containerEdits={"mounts": [{"hostPath": "/x", "containerPath": ""}]}), "empty container path"),
        (spec(containerEdits={"hooks": [{"hookName": "x", "path": "/x"}]}), 'invalid hook name "x"'),
        (spec(containerEdits={"hooks": [{"hookName": "prestart", "path": ""}]}), "empty path"),
        (spec(containerEdits={"additionalGids": [-1]}), "-1 is no group"),
    ],
)
def test_a_file_that_is_wrong_is_one_clear_line(text: bytes, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        cdi.parse(text, is_json=False)
    assert said in caught.value.text
    assert "\n" not in caught.value.text


def test_a_wrong_json_file_is_one_line_too() -> None:
    for text in (b"{", b"[" * 100_000, spec(nonsense=1)):
        with pytest.raises(InvalidArgument, match="failed to unmarshal"):
            cdi.parse(text, is_json=True)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("vendor.example/class=name", True),
        ("v/c=0", True),
        ("nvidia.com/gpu=GPU-1:0", True),
        ("/dev/null", False),
        ("vendor.example/class", False),
        ("vendor.example/class=", False),
        ("/class=name", False),
        ("1vendor/class=name", False),
        ("vendor/class=a/b", False),
        ("vendor/cl/ass=a", False),
    ],
)
def test_names_of_devices(text: str, is_one: bool) -> None:
    assert is_qualified(text) == is_one
