"""Image documents: configuration, manifest, index."""

from __future__ import annotations

import json

import pytest

from corten.errors import InvalidArgument
from corten.spec import image as spec

DIGEST = "sha256:" + "ab" * 32


def config(**fields: object) -> bytes:
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, **fields}
    ).encode()


def manifest(**fields: object) -> bytes:
    descriptor = {"mediaType": spec.OCI_CONFIG, "digest": DIGEST, "size": 2}
    return json.dumps({"schemaVersion": 2, "config": descriptor, "layers": [descriptor], **fields}).encode()


def test_a_configuration_with_everything_docker_writes() -> None:
    parsed = spec.parse_config(
        config(
            config={
                "Env": ["A=b"],
                "Cmd": None,
                "Entrypoint": ["/x"],
                "ExposedPorts": {"80/tcp": {}},
                "Volumes": {"/v": {}},
                "Labels": {"k": "v"},
                "OnBuild": None,
                "WorkingDir": "/w",
                "User": "1:2",
                "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "StartPeriod": 6, "Retries": 7},
                "Unknown": 1,
            },
            history=[{"created_by": "x", "empty_layer": True}],
            **{"os.version": "1", "container_config": {}},
        )
    )
    assert parsed.run.env == ["A=b"]
    assert parsed.run.exposed_ports == {"80/tcp": {}}
    assert parsed.run.working_dir == "/w"
    assert parsed.run.healthcheck == spec.Healthcheck(test=["CMD", "x"], interval=5, start_period=6, retries=7)
    assert parsed.os_version == "1"
    assert parsed.diff_ids == (DIGEST,)
    assert spec.parse_config(config(config=None, history=None)).run == spec.RunConfig()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"rootfs":{"type":"layers","diff_ids":["sha256:../../x"]}}',
        b'{"rootfs":{"type":"base","diff_ids":[]}}',
        b'{"config":{"Env":"A=b"}}',
        b'{"os":"\xff"}',
        b" " * (spec.DOCUMENT_SIZE_MAX + 1),
        b"[" * 200_000,
    ],
)
def test_what_is_no_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid image configuration|digest"):
        spec.parse_config(data)


def test_a_manifest_is_read_and_written() -> None:
    parsed = spec.parse_manifest(manifest(mediaType=spec.OCI_MANIFEST))
    assert parsed.layers[0].digest == DIGEST
    assert spec.parse_manifest(spec.encode(parsed)) == parsed
    assert b'"schemaVersion":2' in spec.encode(parsed)


@pytest.mark.parametrize("extra", [{"manifests": []}, {"fsLayers": []}, {"mediaType": spec.OCI_INDEX}])
def test_a_document_that_could_be_two_things_is_neither(extra: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="invalid image manifest"):
        spec.parse_manifest(manifest(**extra))
    index = json.dumps({"schemaVersion": 2, "manifests": [], "layers": [], **extra}).encode()
    with pytest.raises(InvalidArgument, match="invalid image index"):
        spec.parse_index(index)


def test_descriptors_are_checked() -> None:
    for descriptor in (
        {"mediaType": "x", "digest": "sha256:x", "size": 1},
        {"mediaType": "x", "digest": DIGEST, "size": -1},
    ):
        with pytest.raises(InvalidArgument):
            spec.parse_manifest(manifest(layers=[descriptor]))


def test_the_platform_of_this_machine_is_chosen() -> None:
    def entry(architecture: str, variant: str = "") -> dict[str, object]:
        platform = {"architecture": architecture, "os": "linux", "variant": variant}
        return {"mediaType": spec.OCI_MANIFEST, "digest": DIGEST, "size": 1, "platform": platform}

    index = spec.parse_index(
        json.dumps(
            {"schemaVersion": 2, "manifests": [entry("arm64", "v8"), entry("amd64"), entry("arm", "v7")]}
        ).encode()
    )
    assert spec.select_platform(index, spec.Platform("amd64", "linux")) is index.manifests[1]
    assert spec.select_platform(index, spec.Platform("arm64", "linux")) is index.manifests[0]
    assert spec.select_platform(index, spec.Platform("aarch64", "linux", "v8")) is index.manifests[0]
    assert spec.select_platform(index, spec.Platform("arm", "linux", "v7")) is index.manifests[2]
    assert spec.select_platform(index, spec.Platform("arm", "linux", "v6")) is None
    assert spec.select_platform(index, spec.Platform("riscv64", "linux")) is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (("amd64", ""), ("amd64", "")),
        (("amd64", "v3"), ("amd64", "v2")),
        (("arm", ""), ("arm", "v7")),
        (("arm", "v6"), ("arm", "v6")),
        (("arm", "v5"), None),
        (("arm64", ""), ("arm", "v7")),
    ],
)
def test_the_best_variant_that_runs_is_chosen_as_containerd_does(
    wanted: tuple[str, str], found: tuple[str, str] | None
) -> None:
    offered = [("386", ""), ("arm", "v6"), ("arm", "v7"), ("amd64", "v2"), ("amd64", "")]
    manifests = [
        spec.Descriptor(spec.OCI_MANIFEST, DIGEST, number, platform=spec.Platform(architecture, "linux", variant))
        for number, (architecture, variant) in enumerate(offered)
    ]
    chosen = spec.select_platform(
        spec.Index(schema_version=2, manifests=manifests), spec.Platform(wanted[0], "linux", wanted[1])
    )
    assert (offered[chosen.size] if chosen else None) == found


def test_chain_ids_are_the_specifications() -> None:
    one, two = spec.digest_of(b"1"), spec.digest_of(b"2")
    assert spec.chain_ids([]) == ()
    assert spec.chain_ids([one, two]) == (one, spec.digest_of(f"{one} {two}".encode()))


def test_a_document_of_any_depth_is_an_error_and_no_crash() -> None:
    deep = b'{"architecture": "amd64", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for parse in (spec.parse_config, spec.parse_manifest, spec.parse_index):
        with pytest.raises(InvalidArgument, match="invalid image"):
            parse(deep)
