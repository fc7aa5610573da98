"""What a hostile registry answers to a pull of `target/image:1`: lies of the protocol, then of the content.

Each is told by `support.lyingregistry`; the image behind it is honest, and is what is pulled once the lie is gone.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from support import images, pullimages
from support.lyingregistry import Exchange, Lie, LyingRegistry, changed, on
from support.pullimages import Blob, Image

REPOSITORY = "target/image"
TAG = "1"
MIB = 1 << 20
OTHER = images.digest(b"other")
ESC = "\x1b]0;owned\x07\x1b[2J"
HOSTILE_DENIAL = json.dumps({"errors": [{"code": "DENIED", "message": ESC + "x" * MIB}]}).encode()


def honest() -> Image:
    """Two small layers, of which one does not compress: enough for a line to be cut in it."""
    mine = images.layer([images.Entry("mine", pullimages.noise(7, 300_000))])
    return pullimages.image([*images.busybox_layers(), mine])


# Answers that never end, or never come.


def endless_body(exchange: Exchange) -> bool:
    """A length that nobody could keep, and bytes for ever."""
    return exchange.pour(bytes(MIB), start=b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\n")


def endless_chunks(exchange: Exchange) -> bool:
    """No length, and chunks for ever."""
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    return exchange.pour(chunk, start=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def endless_until_close(exchange: Exchange) -> bool:
    """Neither length nor chunks: the end would be the end of the connection."""
    return exchange.pour(bytes(MIB), start=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")


def endless_chunk_line(exchange: Exchange) -> bool:
    """The size of the first chunk has no end."""
    return exchange.pour(b"0" * MIB, start=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def endless_trailers(exchange: Exchange) -> bool:
    """The headers behind the last chunk have no end."""
    start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    return exchange.pour(b"X-More: 1\r\n" * 100, start=start, pause=0.01)


def endless_headers(exchange: Exchange) -> bool:
    """Header after header."""
    return exchange.pour(b"X-More: 1\r\n" * 1000, start=b"HTTP/1.1 200 OK\r\n")


def endless_header(exchange: Exchange) -> bool:
    """One header without an end."""
    return exchange.pour(b"x" * MIB, start=b"HTTP/1.1 200 OK\r\nX-More: ")


def endless_status(exchange: Exchange) -> bool:
    """The first line has no end."""
    return exchange.pour(b"x" * MIB, start=b"HTTP/1.1 200 ")


def endless_interim(exchange: Exchange) -> bool:
    """100 Continue for ever: http.client of Python reads them all (the loop of CVE-2021-3737)."""
    return exchange.pour(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, pause=0.01)


def huge_headers(exchange: Exchange) -> bool:
    """As many as a client might think are still fine, each as long as it may be."""
    headers = "".join(f"X-{number}: {'x' * 60_000}\r\n" for number in range(90))
    return exchange.raw(f"HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n".encode())


def drip(exchange: Exchange) -> bool:
    """A header, a byte at a time, so that the line is never silent."""
    return exchange.pour(b"x", start=b"HTTP/1.1 200 OK\r\nX-Slow: ", pause=0.05)


def drip_blob(exchange: Exchange) -> bool:
    """As long as it should be, a byte at a time."""
    size = len(exchange.owner.held[exchange.repository].blobs[exchange.reference])
    return exchange.pour(b"x", start=f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode(), pause=0.05)


def silence(exchange: Exchange) -> bool:
    """No answer."""
    return exchange.silence()


def closing(exchange: Exchange) -> bool:
    """The connection ends without an answer."""
    return exchange.hang_up()


def no_http(exchange: Exchange) -> bool:
    """Another protocol."""
    exchange.raw(b"220 mail.example ESMTP\r\n")
    return exchange.hang_up()


# Answers that are not true.


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Lie:
    """Always this."""
    return lambda exchange: exchange.reply(code, headers, body)


def flipped(data: bytes) -> bytes:
    """Of the same length, one bit wrong in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut(exchange: Exchange) -> bool:
    """Half of what was announced, each time from where it was asked to go on."""
    data = exchange.owner.held[exchange.repository].blobs[exchange.reference]
    exchange.raw(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode(), data[: len(data) // 2])
    return exchange.hang_up()


def wrong_range(exchange: Exchange) -> bool:
    """A cut line first; who asks for the rest gets the beginning, called the rest."""
    data = exchange.owner.held[exchange.repository].blobs[exchange.reference]
    if "range" not in exchange.headers:
        return cut(exchange)
    return exchange.reply(206, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data)


def unasked_range(exchange: Exchange) -> bool:
    """The second half for somebody who asked for all."""
    data = exchange.owner.held[exchange.repository].blobs[exchange.reference]
    half = len(data) // 2
    return exchange.reply(206, {"Content-Range": f"bytes {half}-{len(data) - 1}/{len(data)}"}, data[half:])


def two_lengths(exchange: Exchange) -> bool:
    """Two lengths that do not agree (RFC 9112 §6.3)."""
    return exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 20\r\n\r\n{}" + bytes(18))


def redirect_loop(exchange: Exchange) -> bool:
    """To itself."""
    return exchange.reply(307, {"Location": exchange.target})


def redirect_growing(exchange: Exchange) -> bool:
    """To an address that grows."""
    return exchange.reply(307, {"Location": f"{exchange.target.partition('?')[0]}?{'x' * len(exchange.target) * 2}"})


def redirect(location: str) -> Lie:
    """To somewhere else."""
    return lambda exchange: exchange.reply(307, {"Location": location})


def bomb(exchange: Exchange) -> bool:
    """Nobody asked for a compressed answer; this one is a gigabyte."""
    return exchange.reply(200, {"Content-Encoding": "gzip", "Content-Type": pullimages.OCI}, _bomb())


def _bomb() -> bytes:
    """A gigabyte of zeros in a megabyte: members of 16 MiB."""
    return gzip.compress(bytes(16 * MIB), 6, mtime=0) * 64


EVERYTHING = "manifests blobs tags uploads"
BOTH = ("GET", "HEAD")

PROTOCOL: dict[str, Lie] = {
    "a manifest without an end": on("manifests", endless_body),
    "a manifest of chunks without an end": on("manifests", endless_chunks),
    "a manifest that ends with the connection": on("manifests", endless_until_close),
    "a chunk size without an end": on("manifests", endless_chunk_line),
    "trailers without an end": on("manifests", endless_trailers),
    "trailers of a blob without an end": on("blobs", endless_trailers),
    "headers without an end": on("manifests", endless_headers, methods=BOTH),
    "a header without an end": on("manifests", endless_header, methods=BOTH),
    "a status line without an end": on("manifests", endless_status, methods=BOTH),
    "interim answers without an end": on("manifests", endless_interim, methods=BOTH),
    "huge headers": on("manifests", huge_headers, methods=BOTH),
    "a connection that always ends": on("manifests", closing, methods=BOTH),
    "another protocol": on("manifests", no_http, methods=BOTH),
    "two lengths": on("manifests", two_lengths),
    "a negative length": on("manifests", status(200, {"Content-Length": "-1"}), methods=BOTH),
    "a compressed manifest": on("manifests", bomb),
    "a blob without an end": on("blobs", endless_body),
    "a blob of chunks without an end": on("blobs", endless_chunks),
    "a blob that ends with the connection": on("blobs", endless_until_close),
    "a compressed blob": on("blobs", bomb),
    "a blob that is always cut": on("blobs", cut),
    "a range that was not asked for": on("blobs", unasked_range),
    "another range than asked for": on("blobs", wrong_range),
    "a manifest with a wrong bit": changed("manifests", flipped),
    "a blob with a wrong bit": changed("blobs", flipped),
    "a blob with more bytes": changed("blobs", lambda data: data + b"more"),
    "a blob with less bytes": changed("blobs", lambda data: data[:-1]),
    "an empty manifest": changed("manifests", lambda data: b""),
    "an empty blob": changed("blobs", lambda data: b""),
    "another digest than the content's": changed("manifests", lambda data: data, {"Docker-Content-Digest": OTHER}),
    "a digest that is a path": changed(
        "manifests", lambda data: data, {"Docker-Content-Digest": "sha256:../../../../../etc/passwd"}
    ),
    "a page instead of a manifest": changed(
        "manifests", lambda _: b"<html>log in</html>", {"Content-Type": "text/html"}
    ),
    "a manifest called an index": changed(
        "manifests", lambda data: data, {"Content-Type": f"{pullimages.OCI}.index.v1+json"}
    ),
    "a redirect to itself": on("manifests blobs", redirect_loop, methods=BOTH),
    "a redirect that grows": on("manifests blobs", redirect_growing, methods=BOTH),
    "a redirect to a file": on("manifests blobs", redirect("file:///etc/passwd"), methods=BOTH),
    "a redirect to another protocol": on("manifests blobs", redirect("gopher://127.0.0.1:70/x"), methods=BOTH),
    "a redirect without a host": on("manifests blobs", redirect("http:///x"), methods=BOTH),
    "a redirect with line ends": on("manifests blobs", redirect("/v2/x\r Host: other"), methods=BOTH),
    "a redirect to nowhere": on("manifests blobs", status(307), methods=BOTH),
    "later, for ever": on(EVERYTHING, status(429, {"Retry-After": "0"}), methods=BOTH),
    "later, in a million years": on(EVERYTHING, status(429, {"Retry-After": "31536000000000"}), methods=BOTH),
    "later, nonsense": on(EVERYTHING, status(503, {"Retry-After": "-1e309 \x01 soon"}), methods=BOTH),
    "a failure for ever": on(EVERYTHING, status(500, {}, b"x" * MIB), methods=BOTH),
    "an error with terminal commands": on(EVERYTHING, status(403, {}, HOSTILE_DENIAL), methods=BOTH),
    "an error page with terminal commands": on(EVERYTHING, status(403, {}, (ESC * 100_000).encode()), methods=BOTH),
    "an error nested deep": on(EVERYTHING, status(400, {}, b'{"errors":' + b"[" * 1_000_000), methods=BOTH),
    "a challenge nobody knows": on(
        EVERYTHING, status(401, {"WWW-Authenticate": "Negotiate x, Digest y"}), methods=BOTH
    ),
    "a challenge without a realm": on(EVERYTHING, status(401, {"WWW-Authenticate": "Bearer"}), methods=BOTH),
    "a challenge with a file as realm": on(
        EVERYTHING, status(401, {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd",service="x"'}), methods=BOTH
    ),
    "a challenge without an end of its quotes": on(
        EVERYTHING, status(401, {"WWW-Authenticate": 'Bearer realm="' + '\\"' * 20_000}), methods=BOTH
    ),
    "a status of its own": on(EVERYTHING, status(999), methods=BOTH),
    "an answer without content": on(EVERYTHING, status(204), methods=BOTH),
}

# They hold a client up for as long as it lets them: for the tests of time limits and of giving up.
SLOW: dict[str, Lie] = {
    "silence about the manifest": on("manifests", silence, methods=BOTH),
    "silence about a blob": on("blobs", silence),
    "a header byte by byte": on("manifests", drip, methods=BOTH),
    "a blob byte by byte": on("blobs", drip_blob),
}


# Content.


@dataclass(frozen=True, slots=True)
class Content:
    """A manifest that is what its digest says, and all the same not to be trusted."""

    media_type: str
    document: bytes
    blobs: tuple[Blob, ...] = ()

    def put(self, registry: LyingRegistry) -> str:
        """Puts it there under the tag; its reference."""
        registry.add_manifest(REPOSITORY, self.media_type, self.document, TAG)
        registry.held[REPOSITORY].blobs |= {blob.digest: blob.data for blob in self.blobs}
        return f"{registry.host}/{REPOSITORY}:{TAG}"


OCI_MANIFEST, OCI_INDEX = f"{pullimages.OCI}.manifest.v1+json", f"{pullimages.OCI}.index.v1+json"


def edited(change: Callable[[dict[str, Any]], object], *, of: Image | None = None, media_type: str = "") -> Content:
    """The honest image with its manifest changed in place."""
    image = of or honest()
    document = json.loads(image.manifest.data)
    change(document)
    return Content(media_type or image.manifest.media_type, json.dumps(document).encode(), image.blobs)


def configured(change: Callable[[dict[str, Any]], object]) -> Content:
    """The honest image with its configuration changed in place."""
    image = honest()
    document = json.loads(image.config.data)
    change(document)
    made = pullimages.of_blobs(Blob(image.config.media_type, json.dumps(document).encode()), image.layers)
    return Content(made.manifest.media_type, made.manifest.data, made.blobs)


def _layered(*blobs: Blob, diff_ids: list[str] | None = None) -> Content:
    """An image of blobs as they are, with the diff ids of the honest image unless others are given."""
    document = json.loads(pullimages.image([b""] * len(blobs)).config.data)
    document["rootfs"]["diff_ids"] = diff_ids or [OTHER] * len(blobs)
    made = pullimages.of_blobs(Blob(f"{pullimages.OCI}.config.v1+json", json.dumps(document).encode()), blobs)
    return Content(made.manifest.media_type, made.manifest.data, made.blobs)


def _index_of(*entries: Mapping[str, Any], **more: Any) -> Content:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **more}
    return Content(OCI_INDEX, json.dumps(document).encode())


def _entry(digest: str, size: Any = 100, media_type: str = OCI_MANIFEST) -> dict[str, Any]:
    platform = {"architecture": "amd64", "os": "linux"}
    return {"mediaType": media_type, "digest": digest, "size": size, "platform": platform}


LAYER = f"{pullimages.OCI}.layer.v1.tar+gzip"
UP = "../../../../../../../../etc/passwd"


def contents() -> dict[str, Content]:
    """All of them."""
    return _kinds() | _digests() | _sizes() | _configurations() | _indexes() | _layers()


def _kinds() -> dict[str, Content]:
    """What the document is."""
    base = honest()
    confusion = {"manifests": [_entry(base.digest, len(base.manifest.data))]}
    return {
        # CVE-2021-41190: which of the two it is depends on who reads it
        "a manifest that is an index, too": edited(lambda one: one.update(confusion)),
        "an index that is a manifest, too": edited(
            lambda one: one.update(confusion, mediaType=OCI_INDEX), media_type=OCI_INDEX
        ),
        "a media type inside that is another": edited(lambda one: one.update(mediaType=OCI_INDEX)),
        "a manifest of schema 1": Content(pullimages.SCHEMA1, pullimages.schema1(REPOSITORY, TAG)),
        "a manifest of schema 1 called schema 2": Content(OCI_MANIFEST, pullimages.schema1(REPOSITORY, TAG)),
        "keys that come twice": Content(
            OCI_MANIFEST, base.manifest.data[:-1] + b', "layers": [], "config": {}}', base.blobs
        ),
        "no JSON": Content(OCI_MANIFEST, b"\x00\x01"),
        "nested deep": Content(OCI_MANIFEST, b'{"schemaVersion":2,"x":' + b"[" * 1_000_000),
    }


def _digests() -> dict[str, Content]:
    """Digests that are none."""
    return {
        "a configuration whose digest is a path": edited(lambda one: one["config"].update(digest=f"sha256:{UP}")),
        "a configuration whose digest is an absolute path": edited(
            lambda one: one["config"].update(digest="/etc/passwd")
        ),
        "a layer whose digest is a path": edited(lambda one: one["layers"][0].update(digest=f"sha256:{UP}")),
        "a layer whose digest has another algorithm": edited(
            lambda one: one["layers"][0].update(digest=f"md5:{'0' * 32}")
        ),
        "a layer whose digest is in capitals": edited(
            lambda one: one["layers"][0].update(digest=one["layers"][0]["digest"].upper().replace("SHA", "sha"))
        ),
        "a layer whose digest ends with a line": edited(
            lambda one: one["layers"][0].update(digest=one["layers"][0]["digest"] + "\n")
        ),
        "an index whose digest is a path": _index_of(_entry(f"sha256:{UP}")),
    }


def _sizes() -> dict[str, Content]:
    """Sizes, and how many."""
    return {
        "a layer of negative size": edited(lambda one: one["layers"][0].update(size=-1)),
        "a layer larger than it says": edited(lambda one: one["layers"][0].update(size=10)),
        "a layer smaller than it says": edited(lambda one: one["layers"][0].update(size=1 << 40)),
        "a layer of every size there is": edited(lambda one: one["layers"][0].update(size=(1 << 63) - 1)),
        "a layer of more than every size": edited(lambda one: one["layers"][0].update(size=1 << 70)),
        "a configuration of a terabyte": edited(lambda one: one["config"].update(size=1 << 40)),
        "a million layers": edited(
            lambda one: one.update(layers=[{"digest": OTHER, "size": 1, "mediaType": LAYER}] * 40_000)
        ),
        "a layer that is missing": edited(
            lambda one: one["layers"].append({"digest": OTHER, "size": 1, "mediaType": LAYER})
        ),
        "a layer too few": edited(lambda one: one["layers"].pop()),
        "a layer too many": edited(lambda one: one["layers"].append(one["layers"][0])),
        "layers in another order": edited(lambda one: one["layers"].reverse()),
    }


def _configurations() -> dict[str, Content]:
    """The configuration, and what it says of the layers."""
    return {
        "a configuration of an unknown kind": edited(lambda one: one["config"].update(mediaType="application/x-sh")),
        "other content than the configuration says": configured(
            lambda one: one["rootfs"].update(diff_ids=[OTHER, *one["rootfs"]["diff_ids"][1:]])
        ),
        "a diff id that is a path": configured(
            lambda one: one["rootfs"].update(diff_ids=[f"sha256:{UP}", *one["rootfs"]["diff_ids"][1:]])
        ),
        "a configuration of another system": configured(lambda one: one.update(os="windows")),
        "a configuration that is a list": Content(**_config_bytes(b"[]")),
        "a configuration that is a layer": edited(lambda one: one.update(config=one["layers"][0])),
    }


def _indexes() -> dict[str, Content]:
    """Indexes."""
    return {
        "an index of an index of itself's kind": _deep_index(),
        "an index of nothing": _index_of(),
        "an index of nobody's machine": _index_of(
            {**_entry(OTHER), "platform": {"architecture": "s390x", "os": "aix"}}
        ),
        "an index of what is missing": _index_of(_entry(OTHER)),
        "a million machines": _index_of(*[_entry(OTHER, size=1)] * 20_000),
    }


def _layers() -> dict[str, Content]:
    """What the layers are."""
    bomb = Blob(LAYER, gzip.compress(bytes(16 * MIB), 9, mtime=0) * 400)
    base = honest()
    return {
        "a bomb": _layered(bomb),
        "a layer of an unknown kind": edited(lambda one: one["layers"][0].update(mediaType="application/x-sh")),
        "a layer that is no archive": _layered(Blob(LAYER, gzip.compress(pullimages.noise(3, 5000)))),
        "a layer that is not compressed": _layered(Blob(LAYER, images.busybox_layers()[1])),
        "a layer that is cut": _layered(Blob(LAYER, base.layers[2].data[:-100])),
        "a layer with something behind it": _layered(Blob(LAYER, base.layers[1].data + b"behind")),
    }


def _config_bytes(data: bytes) -> dict[str, Any]:
    image = honest()
    made = pullimages.of_blobs(Blob(image.config.media_type, data), image.layers)
    return {"media_type": made.manifest.media_type, "document": made.manifest.data, "blobs": made.blobs}


def _deep_index() -> Content:
    """Not by digests that run in a circle, which nobody can make, but by an index whose entry is called an index."""
    return _index_of(_entry(OTHER, media_type=OCI_INDEX))
