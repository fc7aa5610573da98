"""save, export and diff beside dockerd 26.1: the same container ends as the same archive and the same list."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
# every kind of file and of change; of what a mount covers, what lies below it
CHANGES = (
    "mkdir -p /a/b/c; echo hi >/a/b/c/f; ln /a/b/c/f /a/link; ln -s f /a/b/c/s; mkfifo /a/p; mknod /a/null c 1 3;"
    " chmod 4755 /a/b/c/f; rm -r /bin/awk /home/user; mkdir /home/user; touch /home/user/new;"
    " touch -d '2001-02-03 04:05:06' /a/b/c/f /a/b; chown 5:6 /a; rm /etc/passwd; echo x > /etc/group;"
    " mv /usr/bin /usr/moved; echo 1 > /etc/hostname2; rm -f /.dockerenv; touch /tmp/.wh.x; mkdir /bin/awk;"
    f" mkdir -p /{'long/' * 40}x"
)
FLAGS = (
    *("-e", "X=y", "-e", "PATH=/bin", "--label", "own=1", "-w", "/tmp", "--expose", "81", "--stop-signal", "INT"),
    *("--stop-timeout", "3", "-t", "-i", "--domainname", "d.example"),
)
CONTAINERS = ("done", "live", "fresh")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dockerd, CortenEngine]]:
    """Two engines with the same containers."""
    bound = tmp_path_factory.mktemp("bound")
    (bound / "inside").write_text("not the container's")
    with Dockerd() as theirs, CortenEngine() as ours:
        for engine in (theirs, ours):
            engine.docker("load", "-i", str(images.busybox()), check=True)
            mounts = ("-v", f"{bound}:/vol", "-v", f"{bound}/inside:/etc/bound", "--tmpfs", "/tt")
            engine.docker("run", "--name", "done", *mounts, IMAGE, "sh", "-c", CHANGES, check=True)
            script = f"{CHANGES}; touch /tt/x; exec sleep 1000"
            engine.docker("run", "-d", "--name", "live", *mounts, *FLAGS, IMAGE, "sh", "-c", script, check=True)
            engine.docker("create", "--name", "fresh", IMAGE, "true", check=True)
        yield theirs, ours


def exported(engine: DockerClient, name: str, folder: Path) -> bytes:
    path = folder / "exported.tar"
    engine.docker("export", "-o", str(path), name, check=True)
    return path.read_bytes()


def listed(data: bytes) -> list[tuple[object, ...]]:
    """Every member in order, without the times, which are those of this run."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [
            (one.name, one.type, one.mode, one.uid, one.gid, one.size, one.linkname, one.devmajor, one.devminor)
            for one in archive
        ]


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_exported_container_has_the_same_files(
    both: tuple[Dockerd, CortenEngine], tmp_path: Path, name: str
) -> None:
    theirs, ours = (exported(engine, name, tmp_path) for engine in both)
    assert listed(ours) == listed(theirs)
    assert b"not the container's" not in ours


def test_what_is_exported_can_be_imported_by_the_other(both: tuple[Dockerd, CortenEngine], tmp_path: Path) -> None:
    theirs, ours = both
    path = tmp_path / "exported.tar"
    for source, sink in ((theirs, ours), (ours, theirs)):
        path.write_bytes(exported(source, "done", tmp_path))
        sink.docker("import", str(path), "imported:1", check=True)
        assert sink.docker("run", "--rm", "--network", "none", "imported:1", "/bin/cat", "/a/link").stdout == "hi\n"


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_changes_of_a_container_are_the_same(both: tuple[Dockerd, CortenEngine], name: str) -> None:
    theirs, ours = (sorted(engine.docker("diff", name, check=True).stdout.splitlines()) for engine in both)
    assert ours == theirs
    assert both[1].docker("diff", name).stdout == both[1].corten("diff", name).stdout


def test_an_archive_of_either_is_loaded_by_the_other(both: tuple[Dockerd, CortenEngine], tmp_path: Path) -> None:
    theirs, ours = both
    path = tmp_path / "saved.tar"
    for source, sink, tag in ((theirs, ours, "by-dockerd"), (ours, theirs, "by-corten")):
        names = [f"saved/{tag}:1", f"saved/{tag}:2"]
        for name in names:
            source.docker("tag", IMAGE, name, check=True)
        source.docker("save", "-o", str(path), f"saved/{tag}", check=True)
        assert sink.docker("load", "-i", str(path)).stdout == "".join(f"Loaded image: {name}\n" for name in names)
        form = ("image", "inspect", "-f", "{{.Id}} {{json .RootFS.Layers}}", names[1])
        assert sink.docker(*form).stdout == source.docker(*form).stdout


def test_both_make_the_same_manifest_of_an_image(both: tuple[Dockerd, CortenEngine], tmp_path: Path) -> None:
    indexes = []
    for engine in both:
        path = tmp_path / "saved.tar"
        engine.docker("save", "-o", str(path), IMAGE, check=True)
        with tarfile.open(path) as archive:
            indexes.append(archive.extractfile("index.json").read())  # type: ignore[union-attr]
    assert indexes[0] == indexes[1]


COMMITS = {
    "plain": (),
    "described": ("-a", "An Author <a@b>", "-m", "said"),
    "changed": (
        *("-c", "ENV A=b PATH=/x", "-c", 'CMD ["true"]', "-c", "EXPOSE 80 53/udp", "-c", "LABEL l=1 m=2"),
        *("-c", "USER user", "-c", "WORKDIR /w", "-c", "VOLUME /v", "-c", "STOPSIGNAL INT", "-c", 'ENTRYPOINT ["a"]'),
        *("-c", "HEALTHCHECK --interval=5s CMD x", "-c", "ONBUILD RUN y", "--pause=false"),
    ),
}
_FORM = (
    "{{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.Labels}} {{.Config.User}}"
    " {{.Config.WorkingDir}} {{json .Config.Volumes}} {{json .Config.ExposedPorts}} {{json .Config.OnBuild}}"
    " {{json .Config.Healthcheck}} {{.Config.StopSignal}} {{.Author}} {{.Comment}} {{.Architecture}} {{.Os}}"
    " {{len .RootFS.Layers}} {{.Size}}"
)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("options", COMMITS.values(), ids=COMMITS)
def test_a_committed_container_is_the_same_image(
    both: tuple[Dockerd, CortenEngine], tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    images_of, layers = [], []
    for engine in both:
        done = engine.docker("commit", *options, name, "committed/it:1", check=True)
        assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)
        shown = engine.docker("image", "inspect", "-f", _FORM, "committed/it:1", check=True).stdout
        env, _, others = shown.partition(" ")
        history = engine.docker("history", "--format", "{{.CreatedBy}} {{.Size}} {{.Comment}}", "committed/it:1").stdout
        # now and then the docker CLI sends the variables of -e in another order
        images_of.append((sorted(json.loads(env)), others, history))
        layers.append(effect(top_layer(engine, tmp_path)))
        assert engine.docker("inspect", "-f", "{{.State.Paused}}", name).stdout == "false\n"
    assert images_of[1] == images_of[0]
    assert layers[1] == layers[0]


# Whiteouts of dockerd's that change nothing: of what its init layer alone had, of nothing by a file that is named like
# one, and in a directory over a file.
IDLE = (".wh..dockerenv", "tmp/.wh.x", "bin/awk/.wh..wh..opq")


def effect(data: bytes) -> dict[object, tuple[object, ...]]:
    """A layer's files by name; of whiteouts the names alone."""
    found: dict[object, tuple[object, ...]] = {}
    for name, *rest in listed(data):
        if name not in IDLE:
            found[name] = () if "/.wh." in f"/{name}" else tuple(rest)
    return found


def top_layer(engine: DockerClient, folder: Path) -> bytes:
    path = folder / "saved.tar"
    engine.docker("save", "-o", str(path), "committed/it:1", check=True)
    with tarfile.open(path) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        return archive.extractfile(entry["Layers"][-1]).read()  # type: ignore[union-attr]


def test_what_was_committed_runs_in_the_other(both: tuple[Dockerd, CortenEngine], tmp_path: Path) -> None:
    theirs, ours = both
    path = tmp_path / "saved.tar"
    look = "cat /a/link; ls /home/user /usr; ls /bin/awk /etc/passwd"
    shown = []
    for source, sink in ((ours, theirs), (theirs, ours)):
        source.docker("commit", "live", "committed/run:1", check=True)
        source.docker("save", "-o", str(path), "committed/run:1", check=True)
        sink.docker("load", "-i", str(path), check=True)
        done = sink.docker("run", "--rm", "--network", "none", "committed/run:1", "sh", "-c", look)
        shown.append((done.returncode, done.stdout, done.stderr))
    assert shown[0] == shown[1]
    assert shown[0][1].startswith("hi\n/home/user:\nnew\n")


def test_events_come_in_the_same_order(both: tuple[Dockerd, CortenEngine]) -> None:
    told = []
    for engine in both:
        since = str(time.time())
        engine.docker("commit", "live", "committed/events:1", check=True)
        engine.docker("save", "committed/events:1", check=True)
        engine.docker("export", "live", check=True)
        shown = engine.docker(
            "events", "--since", since, "--until", str(time.time()), "--format", "{{.Type}} {{.Action}}", check=True
        )
        told.append([line for line in shown.stdout.splitlines() if "health" not in line and "exec" not in line])
    assert told[1] == told[0]


TEXTS = """\
save nothing
save corten-test/busybox:9
save nothing@sha256:0000000000000000000000000000000000000000000000000000000000000000
save UPPER
save corten-test/busybox:1 nothing:1
save -o /nowhere/x corten-test/busybox:1
save -o /dev/null corten-test/busybox:1
save -o /tmp corten-test/busybox:1
save -o /etc/passwd/x corten-test/busybox:1
export nothing
export -o /nowhere/x done
diff nothing
commit nothing
commit done UPPER
commit done x@sha256:0000000000000000000000000000000000000000000000000000000000000000
commit -c 'RUN x' done
commit -c 'ENV' done
"""


@pytest.mark.parametrize("command", TEXTS.splitlines())
def test_refusals_are_worded_alike(both: tuple[Dockerd, CortenEngine], command: str) -> None:
    theirs, ours = (engine.docker(*shlex.split(command)) for engine in both)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    own = both[1].corten(*shlex.split(command))
    assert re.sub("docker", "corten", ours.stderr).strip() == own.stderr.strip()
