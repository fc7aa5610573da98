"""Archives of images that lie about themselves: refused in a sentence, and nothing of them stays."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from corten.core import archive
from corten.core.images import ImageStore
from corten.errors import InvalidArgument, NotFound
from support import tarballs as t

LAYER = t.archive(t.entry(b"x", data=b"x"))
CONFIG = t.image_config([LAYER])
OCI_INDEX, OCI_MANIFEST = (f"application/vnd.oci.image.{kind}.v1+json" for kind in ("index", "manifest"))
OCI_CONFIG, OCI_LAYER = (f"application/vnd.oci.image.{kind}" for kind in ("config.v1+json", "layer.v1.tar"))


def docker(entry: object, *parts: bytes) -> bytes:
    """A docker-archive with this entry in manifest.json."""
    document = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    usual = (t.entry(b"c.json", data=CONFIG), t.entry(b"l.tar", data=LAYER))
    return t.archive(*usual, *parts, t.entry(b"manifest.json", data=document))


def image(**fields: object) -> dict[str, object]:
    return {"Config": "c.json", "RepoTags": ["test:1"], "Layers": ["l.tar"]} | fields


def layout(*manifests: object, blobs: tuple[bytes, ...] = ()) -> bytes:
    """An OCI layout with these descriptors in index.json."""
    parts = [t.entry(f"blobs/sha256/{t.digest(data)[7:]}".encode(), data=data) for data in blobs]
    return t.archive(
        *parts, t.entry(b"index.json", data=json.dumps({"manifests": manifests, "schemaVersion": 2}).encode())
    )


def descriptor(data: bytes, kind: str = OCI_MANIFEST, **fields: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": t.digest(data), "size": len(data)} | fields


MANIFEST = json.dumps(
    {"schemaVersion": 2, "config": descriptor(CONFIG, OCI_CONFIG), "layers": [descriptor(LAYER, OCI_LAYER)]}
).encode()


def itself() -> bytes:
    """An index cannot hold its own digest, but an archive can have something else under it."""
    inner = json.dumps({"schemaVersion": 2, "manifests": [descriptor(b"x", OCI_INDEX)]}).encode()
    named = descriptor(inner, OCI_INDEX, annotations={"io.containerd.image.name": "docker.io/library/test:1"})
    return t.archive(
        t.entry(f"blobs/sha256/{t.digest(inner)[7:]}".encode(), data=inner),
        t.entry(f"blobs/sha256/{t.digest(b'x')[7:]}".encode(), data=inner),
        t.entry(b"index.json", data=json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()),
    )


OUT = b"../../../../../../../../etc/passwd"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a configuration above the archive": lambda: docker([image(Config=OUT.decode())]),
    "a configuration of the host": lambda: docker([image(Config="/etc/passwd")]),
    "a configuration through a link": lambda: docker([image(Config="k")], t.symlink(b"k", b"/etc/passwd")),
    "a configuration through a hard link": lambda: docker([image(Config="k")], t.hard_link(b"k", OUT)),
    "a layer above the archive": lambda: docker([image(Layers=[OUT.decode()])]),
    "a layer through a link": lambda: docker([image(Layers=["k"])], t.symlink(b"k", OUT)),
    "links in a circle": lambda: docker([image(Layers=["a"])], t.symlink(b"a", b"b"), t.symlink(b"b", b"a")),
    "a link to itself": lambda: docker([image(Config="a")], t.symlink(b"a", b"a")),
    "a manifest that is a directory": lambda: t.archive(t.directory(b"manifest.json")),
    "a manifest that is a device": lambda: t.archive(t.entry(b"manifest.json", t.CHAR, device=(1, 5))),
    "a manifest that is a link out": lambda: t.archive(t.symlink(b"manifest.json", b"/etc/passwd")),
    "a manifest of 9 MiB": lambda: docker(b"[" + b" " * (9 << 20) + b"]"),
    "a manifest that is deep": lambda: docker(b"[" * 200_000),
    "a manifest that is no list": lambda: docker({"Config": "c.json"}),
    "a manifest with numbers": lambda: docker([image(Layers=[1])]),
    "more images than anybody has": lambda: docker([image()] * 1025),
    "more layers than anybody has": lambda: t.archive(
        *(t.entry(b"c.json", data=t.image_config([LAYER] * 1025)), t.entry(b"l.tar", data=LAYER)),
        t.entry(b"manifest.json", data=json.dumps([image(Layers=["l.tar"] * 1025)]).encode()),
    ),
    "a chain of links": lambda: docker(
        [image(Layers=["0"])],
        *(t.symlink(b"%d" % number, b"%d" % (number + 1)) for number in range(41)),
        t.symlink(b"41", b"l.tar"),
    ),
    "names of more than 64 MiB": lambda: docker(
        [image()], *(t.pax({b"linkpath": b"x" * 4095}) + t.symlink(b"%d" % number, b"") for number in range(16500))
    ),
    "more layers than the configuration": lambda: docker([image(Layers=["l.tar"] * 100_000)]),
    "a name with a digest alone": lambda: docker([image(RepoTags=["test@sha256:" + "0" * 64])]),
    "a name with tag and digest": lambda: docker([image(RepoTags=["test:1@sha256:" + "0" * 64])]),
    "a digest for a name that is another's": lambda: layout(
        descriptor(MANIFEST, annotations={"io.containerd.image.name": "test@sha256:" + "0" * 64}),
        blobs=(MANIFEST, CONFIG, LAYER),
    ),
    "a name that is a path": lambda: docker([image(RepoTags=["../../etc:1"])]),
    "a name that is empty": lambda: docker([image(RepoTags=[""])]),
    "a name with a line feed": lambda: docker([image(RepoTags=["test:1\nLoaded image: other:1"])]),
    "a name with an escape": lambda: docker([image(RepoTags=["\x1b[2Jtest:1"])]),
    "a digest that is a path": lambda: layout({"mediaType": OCI_MANIFEST, "digest": "sha256:../../x", "size": 1}),
    "a digest of another kind": lambda: layout({"mediaType": OCI_MANIFEST, "digest": "sha512:" + "0" * 128, "size": 1}),
    "a negative size": lambda: layout(descriptor(b"x", size=-1)),
    "a manifest that is not there": lambda: layout(descriptor(b"x")),
    "a manifest that is an index too": lambda: layout(
        descriptor(b'{"schemaVersion":2,"manifests":[],"layers":[]}'),
        blobs=(b'{"schemaVersion":2,"manifests":[],"layers":[]}',),
    ),
    "an index in a circle": itself,
    "nothing": t.archive,
    "an index of nothing that is an archive's all": lambda: t.archive(t.entry(b"index.json", data=b"[]")),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_lies_is_refused_and_nothing_stays(store: ImageStore, hostile: Callable[[], bytes]) -> None:
    with pytest.raises((InvalidArgument, NotFound)) as told:
        archive.load(t.chunked(hostile()), store)
    assert "root:" not in told.value.text
    assert not [*store.all(), *store.content.blobs(), *store.overlay.all(), *store.leases.list()]
    assert not [*store.content.ingests(), *store.overlay.staged_directories(), *store.overlay.directories()]


def test_the_size_of_an_index_is_its_own(store: ImageStore) -> None:
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor(MANIFEST)]}).encode()
    top = descriptor(index, OCI_INDEX, size=1 << 40, annotations={"io.containerd.image.name": "test:1"})
    archive.load([layout(top, blobs=(index, MANIFEST, CONFIG, LAYER))], store)
    assert store.target("test:1").size == len(index)


def test_of_two_manifests_the_last_rules_as_in_an_unpacked_archive(store: ImageStore) -> None:
    first = t.entry(b"manifest.json", data=json.dumps([image(RepoTags=["first:1"])]).encode())
    (found,) = archive.load([docker([image(RepoTags=["last:1"])], first)], store)
    assert found.reference is not None
    assert found.reference.familiar == "last:1"


def test_names_in_odd_spellings_are_the_same_member(store: ImageStore) -> None:
    parts = (t.entry(b"/a/../c2.json", data=CONFIG), t.entry(b"./b//l2.tar", data=LAYER))
    archive.load([docker([image(Config="./c2.json", Layers=["b/./l2.tar"])], *parts)], store)
    assert store.get("test:1").config.run.cmd == ["sh"]


def test_a_name_with_its_own_digest_is_taken(store: ImageStore) -> None:
    name = f"test@{t.digest(MANIFEST)}"
    named = descriptor(MANIFEST, annotations={"io.containerd.image.name": name})
    archive.load([layout(named, blobs=(MANIFEST, CONFIG, LAYER))], store)
    assert store.get(name).repo_digests == [name]
