"""The images that are measured: the same bytes every time, and as large as they say."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tarfile
from pathlib import Path

from support import paths

sys.path.append(str(paths.REPOSITORY / "bench"))  # bench is run, not installed

import bigimages

SMALL = bigimages.Shape("small", layers=4, files=100, size=400_000)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_image_is_made_of_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        bigimages.make(SMALL, tmp_path / name)
    assert content(tmp_path / "first") == content(tmp_path / "second")


def test_an_image_has_the_layers_files_and_bytes_that_it_says(tmp_path: Path) -> None:
    made = bigimages.make(SMALL, tmp_path)
    with tarfile.open(made.archive) as archive:
        names = archive.getnames()
        layers = [name for name in names if name.endswith("/layer.tar")]
        assert len(layers) == SMALL.layers
        sizes = []
        for name in layers:
            inner = archive.extractfile(name)
            assert inner is not None
            with tarfile.open(fileobj=inner) as layer:
                sizes += [member.size for member in layer if member.isfile()]
    assert len(sizes) == SMALL.files
    assert abs(sum(sizes) - SMALL.size) < SMALL.size // 20


def test_a_layout_has_the_image_and_its_lower_half_with_true_digests(tmp_path: Path) -> None:
    made = bigimages.make(SMALL, tmp_path)
    blobs = made.layout / "blobs/sha256"
    for path in blobs.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    index = json.loads((made.layout / "index.json").read_text())
    counts = {}
    for one in index["manifests"]:
        manifest = json.loads((blobs / one["digest"].removeprefix("sha256:")).read_text())
        config = json.loads((blobs / manifest["config"]["digest"].removeprefix("sha256:")).read_text())
        plain = [
            gzip.decompress((blobs / row["digest"].removeprefix("sha256:")).read_bytes()) for row in manifest["layers"]
        ]
        assert [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in plain] == config["rootfs"]["diff_ids"]
        counts[one["annotations"]["org.opencontainers.image.ref.name"]] = len(plain)
    assert counts == {"1": SMALL.layers, "base": SMALL.layers // 2}
