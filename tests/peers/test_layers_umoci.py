"""Odd layers beside umoci: what it unpacks of them, and what ours shows (of the same cases: test_core_layers.py)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support import peers, pullimages
from support import tarballs as t
from support.layers import BASE, UPPER, describe

# what umoci shows otherwise than expected: None for what it lacks
OTHERWISE: dict[str, dict[str, str | None]] = {
    # it makes no directory of which the layer has nothing but a whiteout
    "a whiteout of nothing shows nothing": {"fresh": None},
    # it takes nothing of a link's entry but the name
    "a hard link's entry changes the file below": {"hl": "-rwsr-xr-x 9:8 plain", "plain": "-rwsr-xr-x 9:8 plain"},
}


def layout_of(image: pullimages.Image, folder: Path) -> str:
    """An OCI layout with the image as `x`: its name for umoci."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    for blob in (image.manifest, *image.blobs):
        (blobs / blob.digest.removeprefix("sha256:")).write_bytes(blob.data)
    named = {**image.manifest.descriptor, "annotations": {"org.opencontainers.image.ref.name": "x"}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"{folder}:x"


@pytest.mark.parametrize("case", UPPER)
def test_umoci_shows_the_same_or_differs_as_listed(case: str, tmp_path: Path) -> None:
    parts, expected = UPPER[case]
    layout = layout_of(pullimages.image([t.archive(*BASE), t.archive(*parts)]), tmp_path / "layout")
    argv = [str(peers.binary("umoci")), "unpack", "--image", layout, str(tmp_path / "bundle")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    shown = {**expected, **OTHERWISE.get(case, {})}
    assert describe(tmp_path / "bundle/rootfs") == {name: what for name, what in shown.items() if what is not None}
