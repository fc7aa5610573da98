"""What an engine makes once and keeps, made before something is measured or compared."""

from __future__ import annotations

from support import images
from support.engine import CortenEngine


def warm_up(engine: CortenEngine) -> None:
    """One life with a bridge, one without."""
    engine.docker("run", "--rm", "-p", "8099:80", images.BUSYBOX_REF, "true", check=True)
    engine.docker("run", "--rm", "--network", "none", images.BUSYBOX_REF, "true", check=True)
