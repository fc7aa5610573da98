"""Clients of a registry, in one form: each takes an archive of `docker save`, pushes it, and pulls what others pushed.

All run in the network namespace of the registry.  What they saw is compared: the manifest's digest, the image's id (the
digest of its configuration), and its diff ids.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import paths, peers
from support.dockerd import DockerClient
from support.engine import CortenEngine
from support.netns import NetNs
from support.podman import POLICY, Podman

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
INSECURE = "--tls-verify=false"


@dataclass(frozen=True, slots=True)
class Seen:
    """One image as a client tells of it.  An index stands behind `digest` where the name is one's."""

    digest: str
    config: str
    diff_ids: tuple[str, ...]


class Pusher(ABC):
    """One client."""

    name: str

    @abstractmethod
    def push(self, archive: Path, reference: str) -> str:
        """Loads an image and pushes it under a name: the digest that the client told."""

    @abstractmethod
    def pull(self, reference: str) -> Seen:
        """Pulls it and tells; the client forgets it afterwards."""

    @abstractmethod
    def push_again(self, reference: str, name: str) -> str:
        """Pulls, gives it another name of the same registry, and pushes that: the digest that the client told."""


def told(text: str) -> str:
    """The last digest in what a client printed."""
    found = DIGEST.findall(text)
    assert found, f"no digest in {text!r}"
    return str(found[-1])


def of_inspect(found: Any, reference: str) -> Seen:
    """Docker's inspect of an image that was pulled by `reference`."""
    repository = reference.partition("@")[0].rpartition(":")[0] if "@" not in reference else reference.partition("@")[0]
    digests = [one.partition("@")[2] for one in found["RepoDigests"] if one.startswith(f"{repository}@")]
    assert len(digests) == 1, found["RepoDigests"]
    return Seen(digests[0], found["Id"], tuple(found["RootFS"]["Layers"]))


class DockerCli(Pusher):
    """The docker CLI before an engine."""

    def __init__(self, engine: DockerClient, name: str) -> None:
        self.engine = engine
        self.name = f"docker CLI and {name}"

    def run(self, *words: str) -> str:
        """What it prints."""
        return self.engine.docker(*words, check=True).stdout

    def push(self, archive: Path, reference: str) -> str:
        source = told_name(self.run("load", "-i", str(archive)))
        return self._push(source, reference)

    def pull(self, reference: str) -> Seen:
        printed = self.run("pull", reference)
        (found,) = json.loads(self.run("image", "inspect", reference))
        seen = of_inspect(found, reference)
        assert told(printed) == seen.digest, printed
        self.run("rmi", reference)
        return seen

    def push_again(self, reference: str, name: str) -> str:
        self.run("pull", reference)
        return self._push(reference, name)

    def _push(self, source: str, reference: str) -> str:
        self.run("tag", source, reference)
        digest = told(self.run("push", reference))
        self.run("rmi", source, reference)
        return digest


class CortenCli(DockerCli):
    """Our own command line."""

    engine: CortenEngine

    def __init__(self, engine: CortenEngine) -> None:
        super().__init__(engine, "Corten")
        self.name = "corten"

    def run(self, *words: str) -> str:
        return self.engine.corten(*words, check=True).stdout


class DockerPy(Pusher):
    """docker-py before an engine."""

    def __init__(self, engine: DockerClient, name: str) -> None:
        self.engine = engine
        self.name = f"docker-py and {name}"

    def push(self, archive: Path, reference: str) -> str:
        client = self.engine.client()
        try:
            (image,) = client.images.load(archive.read_bytes())
            return self._push(client, image, reference)
        finally:
            client.close()

    def pull(self, reference: str) -> Seen:
        client = self.engine.client()
        try:
            image = client.images.pull(reference)
            client.images.remove(reference)
            return of_inspect(image.attrs, reference)
        finally:
            client.close()

    def push_again(self, reference: str, name: str) -> str:
        client = self.engine.client()
        try:
            image = client.images.pull(reference)
            digest = self._push(client, image, name)
            client.images.remove(reference)
            return digest
        finally:
            client.close()

    @staticmethod
    def _push(client: Any, image: Any, reference: str) -> str:
        loaded = [name for name in image.tags if name.startswith("corten-test/")]
        image.tag(reference)
        messages = list(client.images.push(reference, stream=True, decode=True))
        errors = [one["error"] for one in messages if "error" in one]
        assert not errors, errors
        (digest,) = [one["aux"]["Digest"] for one in messages if "aux" in one]
        for name in (reference, *loaded):
            client.images.remove(name)
        return str(digest)


class PodmanClient(Pusher):
    """podman with a storage of its own."""

    name = "podman"

    def __init__(self, podman: Podman, netns: NetNs) -> None:
        self.podman, self.netns = podman, netns
        policy = podman.folder / ".config/containers/policy.json"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(POLICY)

    def run(self, *words: str) -> str:
        """What it prints."""
        return self.podman("runc", *words, check=True, prefix=self.netns.enter).stdout

    def push(self, archive: Path, reference: str) -> str:
        source = self.run("load", "-q", "-i", str(archive)).strip().rpartition(" ")[2]
        return self._push(source, reference)

    def pull(self, reference: str) -> Seen:
        self._pull(reference)
        (found,) = json.loads(self.run("image", "inspect", reference))
        self.run("rmi", reference)
        return Seen(found["Digest"], f"sha256:{found['Id']}", tuple(found["RootFS"]["Layers"]))

    def push_again(self, reference: str, name: str) -> str:
        self._pull(reference)
        return self._push(reference, name)

    def _pull(self, reference: str) -> None:
        self.run("pull", "-q", INSECURE, reference)

    def _push(self, source: str, reference: str) -> str:
        self.run("tag", source, reference)
        file = self.podman.folder / "digest"
        self.run("push", INSECURE, "--digestfile", str(file), reference)
        self.run("rmi", "--force", source, reference)
        return file.read_text().strip()


class Skopeo(Pusher):
    """skopeo between archives, OCI layouts and the registry."""

    name = "skopeo"

    def __init__(self, netns: NetNs) -> None:
        self.netns = netns
        self.folder = paths.scratch("skopeo")
        (self.folder / "policy.json").write_text(POLICY)

    def close(self) -> None:
        """Removes its folder."""
        shutil.rmtree(self.folder)

    def run(self, *words: str) -> str:
        """What it prints."""
        argv = [*self.netns.enter, str(peers.binary("skopeo")), "--policy", str(self.folder / "policy.json"), *words]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"skopeo {words}: {done.stderr}"
        return done.stdout

    def copy(self, source: str, target: str, *options: str) -> str:
        """The digest of what arrived."""
        file = self.folder / "digest"
        insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        self.run("copy", *insecure, "--digestfile", str(file), *options, source, target)
        return file.read_text().strip()

    def layout(self, reference: str) -> Path:
        """An image of the registry for this machine as an OCI layout with the tag `x`."""
        folder = self.folder / "layout"
        shutil.rmtree(folder, ignore_errors=True)
        self.copy(f"docker://{reference}", f"oci:{folder}:x")
        return folder

    def push(self, archive: Path, reference: str) -> str:
        return self.copy(f"docker-archive:{archive}", f"docker://{reference}")

    def pull(self, reference: str) -> Seen:
        raw = self.run("inspect", INSECURE, "--raw", f"docker://{reference}")
        found = json.loads(self.run("inspect", INSECURE, f"docker://{reference}"))
        config = json.loads(self.run("inspect", INSECURE, "--config", f"docker://{reference}"))
        folder = self.folder / "pulled"
        self.copy(f"docker://{reference}", f"dir:{folder}")  # every blob, its digest checked
        text = json.loads((folder / "manifest.json").read_text())["config"]["digest"]
        shutil.rmtree(folder)
        assert raw
        return Seen(found["Digest"], text, tuple(config["rootfs"]["diff_ids"]))

    def push_again(self, reference: str, name: str) -> str:
        return self.copy(f"docker://{reference}", f"docker://{name}", "--all", "--preserve-digests")


class Umoci(Skopeo):
    """umoci's layouts, which skopeo carries."""

    name = "umoci"

    def umoci(self, *words: str) -> str:
        """What it prints."""
        argv = [str(peers.binary("umoci")), *words]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"umoci {words}: {done.stderr}"
        return done.stdout

    def push(self, archive: Path, reference: str) -> str:
        """With a layer of umoci's own over the archive's."""
        folder = self.folder / "made"
        self.copy(f"docker-archive:{archive}", f"oci:{folder}:x")
        own = self.folder / "own"
        own.write_text("of umoci\n")
        self.umoci("insert", "--image", f"{folder}:x", str(own), "/own")
        digest = self.copy(f"oci:{folder}:x", f"docker://{reference}", "--preserve-digests")
        shutil.rmtree(folder)
        return digest

    def pull(self, reference: str) -> Seen:
        """Unpacks it, which checks every digest and diff id."""
        found = super().pull(reference)
        layout, bundle = self.layout(reference), self.folder / "bundle"
        self.umoci("unpack", "--image", f"{layout}:x", str(bundle))
        assert (bundle / "rootfs/bin/busybox").exists()
        shutil.rmtree(bundle)
        return found


def told_name(text: str) -> str:
    """`Loaded image: a/b:1`."""
    match = re.search(r"Loaded image: (\S+)", text)
    assert match is not None, text
    return match[1]


def names(pushers: Sequence[Pusher]) -> list[str]:
    """For ids of tests."""
    return [one.name for one in pushers]
