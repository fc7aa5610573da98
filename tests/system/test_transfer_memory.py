"""What cortend takes of memory while images come and go that are larger than it may ever be."""

from __future__ import annotations

from pathlib import Path

from support import images, pullimages
from support.engine import CortenEngine
from support.registries import Registry

LAYER_BYTES = 80 << 20
MOST = 150 << 20


def most_ever(engine: CortenEngine) -> int:
    """Bytes that cortend had at most: proc(5), VmHWM."""
    text = Path(f"/proc/{engine.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) << 10


def test_images_larger_than_the_memory_that_is_promised_come_and_go_within_it(tmp_path: Path) -> None:
    layers = [images.layer([images.Entry(name, name.encode() * LAYER_BYTES)]) for name in ("a", "b")]
    archive = tmp_path / "saved.tar"
    with CortenEngine() as engine, Registry(netns=engine.netns) as registry:
        for number, compression in enumerate(("none", "gzip")):
            image = pullimages.image([*images.busybox_layers(), *layers], compression=compression)
            reference = image.push(registry, f"large/{compression}", "1")
            target = f"{registry.host}/went/{compression}:{number}"
            for words in (
                ("pull", "-q", reference),
                ("tag", reference, target),
                ("save", "-o", str(archive), reference),
                ("rmi", "-f", reference, target),
                ("load", "-q", "-i", str(archive)),
                ("tag", reference, target),
                ("push", "-q", target),
            ):
                engine.docker(*words, check=True)
                assert most_ever(engine) < MOST, words
            sizes = engine.docker("run", "--rm", "--network", "none", reference, "wc", "-c", "/a", "/b", check=True)
            assert sizes.stdout.split()[:4:2] == [str(LAYER_BYTES)] * 2
            engine.docker("rmi", reference, target, check=True)
