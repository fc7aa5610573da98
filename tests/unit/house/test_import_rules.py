"""Who may import whom: design §2, read from the source, type-checking imports included."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths

SOURCE = paths.REPOSITORY / "src" / "corten"

# A room imports itself and rooms that stand before it here.
ROOMS = (
    *("errors", "policy", "spec", "sys", "launch", "runtime", "shim", "core", "registry", "network", "engine", "build"),
    *("docker", "containerd", "cri", "daemon", "cli", "xray"),
)

# Rooms that may import less than what stands before them.
NARROWER = {
    "core": {"errors", "spec", "sys"},  # reaches a shim only by its socket
    "registry": {"errors", "spec", "sys", "core"},
    "network": {"errors", "spec", "sys", "core"},
    "build": {"errors", "spec", "sys", "core", "registry", "network"},  # not engine: the door is handed a builder
    "cli": {"errors", "spec"},  # a client: knows the API, not the engine
}
# The one module of a room below: the form of the messages, which both ends of a socket share.
WIRE = {"core": "corten.shim.protocol"}
DOORS = {"docker", "containerd", "cri", "build", "cli"}  # do not import each other

# What pip installs, by the rooms that may import it.  Rooms that are not here run on the standard library alone.
PACKAGES = {
    "spec": {"msgspec"},
    "core": {"msgspec", "isal", "zstandard"},
    "registry": {"msgspec", "urllib3"},
    "network": {"msgspec"},
    "engine": {"msgspec", "re2", "yaml"},
    "docker": {"msgspec", "aiohttp", "multidict", "yarl"},
    "daemon": {"msgspec", "aiohttp"},
    "cli": {"click", "rich"},
}

# The cold path of a runtime has no msgspec either, so spec.docker stays away from it.
COLD = ("errors.py", "spec/runtime.py", "spec/process.py", "spec/scheduling.py", "launch/", "runtime/", "shim/")


def modules() -> list[Path]:
    """Every module of the package, as paths below src/corten."""
    return sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


def room(module: Path) -> str:
    """The room of a module: its folder, or its own name at the top."""
    return module.parts[0] if len(module.parts) > 1 else module.stem


def imports(module: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that a module imports, wherever it stands."""
    tree = ast.parse((SOURCE / module).read_text(encoding="utf-8"))
    package = ["corten", *module.parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{name}.{alias.name}"


def allowed(importer: str) -> set[str]:
    """The other rooms that a room may import."""
    before = set(ROOMS[: ROOMS.index(importer)])
    return NARROWER.get(importer, before - (DOORS - {importer} if importer in DOORS else set()))


def test_every_module_stands_in_a_room_of_the_design() -> None:
    strangers = {str(module) for module in modules() if room(module) not in {*ROOMS, "__init__", "__main__"}}
    assert not strangers


@pytest.mark.parametrize("importer", [name for name in ROOMS if (SOURCE / name).exists() or name == "errors"])
def test_a_room_imports_only_rooms_above_it(importer: str) -> None:
    wrong = []
    for module in modules():
        if room(module) != importer:
            continue
        for line, name in imports(module):
            parts = name.split(".")
            if parts[0] != "corten" or len(parts) < 2 or parts[1] == "__version__":
                continue
            if importer in WIRE and f"{name}.".startswith(f"{WIRE[importer]}."):
                continue
            if parts[1] != importer and parts[1] not in allowed(importer):
                wrong.append(f"src/corten/{module}:{line}: {importer} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_doors_and_build_and_cli_do_not_know_each_other() -> None:
    for door in DOORS:
        assert not allowed(door) & (DOORS - {door})


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_imports_only_the_packages_of_its_room(module: Path) -> None:
    own = PACKAGES.get(room(module), set())
    wrong = [
        f"src/corten/{module}:{line}: {name}"
        for line, name in imports(module)
        if name.split(".")[0] not in {"corten", *sys.stdlib_module_names, *own}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [module for module in modules() if str(module).startswith(COLD)], ids=str)
def test_the_cold_path_stays_away_from_msgspec(module: Path) -> None:
    wrong = [
        f"src/corten/{module}:{line}: {name}"
        for line, name in imports(module)
        if name.startswith(("msgspec", "corten.spec.docker", "corten.spec.image"))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_breach_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of imports finds relative, nested and type-checking imports."""
    (tmp_path / "core").mkdir()
    nested = "def f():\n    import corten.engine.x\n"
    (tmp_path / "core" / "bad.py").write_text(f"if TYPE_CHECKING:\n    from ..shim import loop\n{nested}")
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    assert [name for _, name in imports(Path("core/bad.py"))] == ["corten.shim.loop", "corten.engine.x"]
