"""What an engine makes once and keeps, made before something is measured or compared."""

from __future__ import annotations

from support import images
from support.engine import CortenEngine


def load(engine: CortenEngine, image: bytes) -> None:
    """Loads an image in the form of docker save, and makes the init layer that its containers share."""
    archive = engine.folder / "image.tar"
    archive.write_bytes(image)
    loaded = engine.docker("load", "-i", str(archive), check=True).stdout
    archive.unlink()
    engine.docker("create", "--name", "first", loaded.split()[-1], check=True)
    engine.docker("rm", "first", check=True)


def warm_up(engine: CortenEngine) -> None:
    """One life with a bridge, one without."""
    engine.docker("run", "--rm", "-p", "8099:80", images.BUSYBOX_REF, "true", check=True)
    engine.docker("run", "--rm", "--network", "none", images.BUSYBOX_REF, "true", check=True)


def warm_up_names(engine: CortenEngine) -> None:
    """One life on a network of its own: the resolver stays."""
    engine.docker("network", "create", "warm", check=True)
    engine.docker("run", "--rm", "--network", "warm", images.BUSYBOX_REF, "true", check=True)
    engine.docker("network", "rm", "warm", check=True)
