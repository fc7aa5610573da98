"""The life of two images, one loaded and one imported, and of a container that is renamed and started again.

By the docker CLI, and judged from outside: what the engine lists is whole and runs, tables and disk say the same, and
whoever asks once more gets what he asked for.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from support import images
from support.engine import CortenEngine
from support.faultlife import PORT, Gone, Life
from support.process import wait_for


class ImageLife(Life):
    """`load`, `tag`, `rmi` of one name of two, `import`, `rename`, `restart`, `run --rm`, `rmi` of both images."""

    STEPS = (
        *("load", "tag", "untag", "import_image", "create", "start", "rename", "restart", "remove"),
        *("run_rm", "remove_loaded", "remove_imported"),
    )

    def __init__(self, engine: CortenEngine, *, network: str = "bridge", port: str = PORT) -> None:
        super().__init__(engine, network=network, port=port)
        self.first_name = self.name
        repository = f"corten-test/{self.name}"
        self.loaded, self.tagged, self.imported = (f"{repository}:{tag}" for tag in ("loaded", "tagged", "imported"))

    def docker(self, *args: str, stdin: bytes | None = None) -> str:
        """What the CLI prints; Gone when it fails."""
        done = self.engine.docker(*args, stdin=stdin)
        if done.returncode:
            raise Gone(f"docker {' '.join(args)}: {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    # The steps.

    def load(self) -> None:
        """Three layers; the lowest is of this life alone, so all are unpacked."""
        mine = images.layer([images.Entry("whose", self.first_name.encode())])
        archive = images.docker_archive([self.loaded], [mine, *images.busybox_layers()], {"Cmd": ["sh"]})
        self.docker("load", stdin=archive)

    def tag(self) -> None:
        """A second name."""
        self.docker("tag", self.loaded, self.tagged)

    def untag(self) -> None:
        """That name goes, the image stays."""
        self.docker("rmi", self.tagged)

    def import_image(self) -> None:
        """A root file system of one layer."""
        program = images.Entry("bin/busybox", images.BUSYBOX.read_bytes(), mode=0o755)
        links = [images.symlink(f"bin/{name}", "busybox") for name in ("sh", "true")]
        mine = images.Entry("whose", f"imported by {self.first_name}".encode())
        rootfs = images.layer([images.directory("bin"), program, *links, mine])
        self.docker("import", "-", self.imported, stdin=rootfs)

    def rename(self) -> None:
        """The container is another's namesake from now on."""
        new = f"{self.first_name}-renamed"
        self.docker("rename", self.first_name, new)
        self.name = new

    def restart(self) -> None:
        """It says its first line once more."""
        before = self.log().count(b"one")
        self.docker("restart", "-t", "0", self.name)
        wait_for(lambda: self.log().count(b"one") > before or not self._is_up(), "first line after the restart")
        if self.log().count(b"one") <= before:
            raise Gone("no output after the restart")

    def run_rm(self) -> None:
        """From the imported image."""
        self.docker("run", "--rm", "--name", f"{self.first_name}-short", self.imported, "true")

    def remove_loaded(self) -> None:
        """Its last name, so the image goes."""
        self.docker("rmi", self.loaded)

    def remove_imported(self) -> None:
        """Likewise."""
        self.docker("rmi", self.imported)

    # The verdict.

    def judge(self, *, lost: bool = False) -> str:
        """Everything listed is whole, what was told is true, and the rest of the life goes as if nothing had been."""
        assert not lost
        self._judge_images()
        self._judge_container()
        self._judge_short_container()
        step = self.asked[-1]
        if not self._is_done(step):
            getattr(self, step)()
        for later in self.STEPS[self.STEPS.index(step) + 1 :]:
            getattr(self, later)()
        names = {name for one in self._listed() for name in one["RepoTags"] or ["<none>"]}
        assert names == {images.BUSYBOX_REF}, f"left at the end: {names}"
        return step

    def _listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/images/json?all=1")
        return found

    def _judge_images(self) -> None:
        """Names, as far as the client knows; nothing without a name; disk and tables agree; each one runs."""
        listed = self._listed()
        owners = {name: one["Id"] for one in listed for name in one["RepoTags"] or ()}
        for name, made, gone in (
            (self.loaded, "load", "remove_loaded"),
            (self.tagged, "tag", "untag"),
            (self.imported, "import_image", "remove_imported"),
        ):
            assert name in owners or made not in self.told or gone in self.asked, f"{name} is not listed: {self.told}"
            assert name not in owners or made in self.asked, f"{name} is listed: {self.asked}"
            assert name not in owners or gone not in self.told, f"{name} was removed and is listed"
        assert owners.get(self.tagged) in (None, owners.get(self.loaded)), owners
        nameless = [one["Id"] for one in listed if not one["RepoTags"]]
        assert not nameless, f"half of a request: without a name {nameless}, with one {owners}"
        assert _named_in_layout(self.engine) == len(owners), f"index.json does not say {owners}"
        assert _blobs_of_images(self.engine) == _blobs_on_disk(self.engine)
        assert _layers_in_tables(self.engine) == _layers_on_disk(self.engine)
        for one in listed:
            self.docker("run", "--rm", "--network", "none", one["Id"], "true")

    def _judge_container(self) -> None:
        """It has one of its names, and what it was told to do it does."""
        names = (self.first_name, f"{self.first_name}-renamed")
        found = [name for name in names if self.api.call("GET", f"/containers/{name}/json")[0] == 200]
        if not found:
            assert "create" not in self.told or "remove" in self.asked, f"no {names}: {self.told}"
            return
        assert len(found) == 1, found
        assert "remove" not in self.told, f"{found} was removed"
        assert found == [names[1]] or "rename" not in self.told, f"{found} was renamed"
        assert found == [names[0]] or "rename" in self.asked, f"{found} was not renamed"
        self.name = found[0]
        state = self.state()
        assert state is not None
        if "start" in self.told and not {"restart", "remove"} & set(self.asked):
            assert state["Running"], state
        if "restart" in self.told and "remove" not in self.asked:
            assert state["Running"], state
            assert self.log() == b"one\none\n", self.log()

    def _judge_short_container(self) -> None:
        """A client that died between its two requests leaves one that is created; else it removes itself."""
        target = f"/containers/{self.first_name}-short"
        status, found = self.api.call("GET", f"{target}/json")
        if status == 404:
            return
        assert ("run_rm" in self.asked, "run_rm" in self.told) == (True, False), found["State"]
        if found["State"]["Status"] == "created":
            self.call("DELETE", target)
            return
        wait_for(lambda: self.api.call("GET", f"{target}/json")[0] == 404, "end of a container that removes itself")

    def _is_done(self, step: str) -> bool:
        """Whether a step that cannot be done twice was carried out; the old image of an import asked for twice goes."""
        names = {name for one in self._listed() for name in one["RepoTags"] or ()}
        if step == "import_image" and self.imported in names:
            self.docker("rmi", self.imported)
        gone = {"untag": self.tagged, "remove_loaded": self.loaded, "remove_imported": self.imported}
        if step in gone:
            return gone[step] not in names
        if step == "rename":
            return self.name != self.first_name
        exists = self.state() is not None
        return (step == "create" and exists) or (step == "remove" and not exists)


# What the engine has, from its data root.


def _index(engine: CortenEngine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((engine.data_root / "content/index.json").read_text())["manifests"]
    return found


def _named_in_layout(engine: CortenEngine) -> int:
    return len([one for one in _index(engine) if one.get("annotations")])


def _blobs_of_images(engine: CortenEngine) -> set[str]:
    """What the layout's manifests need."""
    return {digest.removeprefix("sha256:") for one in _index(engine) for digest in _needs(engine, one["digest"])}


def _needs(engine: CortenEngine, manifest: str) -> Iterator[str]:
    path = engine.data_root / "content/blobs/sha256" / manifest.removeprefix("sha256:")
    document = json.loads(path.read_text())
    yield manifest
    yield document["config"]["digest"]
    yield from (layer["digest"] for layer in document["layers"])


def _blobs_on_disk(engine: CortenEngine) -> set[str]:
    return {path.name for path in (engine.data_root / "content/blobs/sha256").iterdir()}


def _layers_in_tables(engine: CortenEngine) -> set[str]:
    with sqlite3.connect(f"file:{engine.data_root}/corten.db?mode=ro", uri=True) as database:
        found = {str(number) for (number,) in database.execute("SELECT id FROM snapshots")}
    database.close()
    return found


def _layers_on_disk(engine: CortenEngine) -> set[str]:
    """Of snapshots; what is thrown away is removed when the engine has nothing better to do."""
    trash = engine.data_root / "snapshots/trash"
    wait_for(lambda: not any(trash.iterdir()), "empty trash")
    return {path.name for path in (engine.data_root / "snapshots").iterdir()} - {"staging", "trash"}
