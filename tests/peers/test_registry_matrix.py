"""Every client pushes to one registry, every client pulls from it: all tell the same digests of the same image.

docker CLI and docker-py before dockerd and before Corten, the corten CLI, podman, skopeo, umoci.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import images, pullimages
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.podman import Podman
from support.pushers import CortenCli, DockerCli, DockerPy, PodmanClient, Pusher, Seen, Skopeo, Umoci
from support.registries import Registry

PEERS = ("docker CLI and dockerd", "docker-py and dockerd", "podman", "skopeo", "umoci")
OURS = ("docker CLI and Corten", "docker-py and Corten", "corten")
SHORT = "docker CLI and Corten"


class Lab:
    """The registry with all its clients, and what each pushed."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        # one namespace for all: dockerd leaves links and firewall to Corten
        dockerd = stack.enter_context(Dockerd("26.1", args=["--bridge", "none", "--iptables=false"]))
        netns = dockerd.netns
        self.registry = stack.enter_context(Registry(netns=netns))
        self.engine = stack.enter_context(CortenEngine(netns=netns))
        skopeo, umoci = Skopeo(netns), Umoci(netns)
        stack.callback(skopeo.close)
        stack.callback(umoci.close)
        podman = PodmanClient(stack.enter_context(Podman()), netns)
        made: list[Pusher] = [DockerCli(dockerd, "dockerd"), DockerPy(dockerd, "dockerd"), podman, skopeo, umoci]
        made += [DockerCli(self.engine, "Corten"), DockerPy(self.engine, "Corten"), CortenCli(self.engine)]
        self.clients = {one.name: one for one in made}
        self._folder = folder
        self._pushed: dict[str, str] = {}

    def pushed(self, name: str) -> str:
        """The reference under which a client pushed its image, which no other has."""
        if name not in self._pushed:
            reference = f"{self.registry.host}/pushed/by-{name.lower().replace(' ', '-')}:1"
            told = self.clients[name].push(self._archive(name), reference)
            assert told == self.registry.digest(*split(reference)), "the client told another digest"
            self._pushed[name] = reference
        return self._pushed[name]

    def _archive(self, name: str) -> Path:
        """busybox, with a file in the name of who pushes it."""
        own = images.layer([images.Entry("whose", name.encode())])
        path = self._folder / f"{name.replace(' ', '-')}.tar"
        path.write_bytes(
            images.docker_archive(["corten-test/matrix:1"], [*images.busybox_layers(), own], {"Cmd": ["sh"]})
        )
        return path

    def stored(self, reference: str) -> Seen:
        """What the registry has, for amd64."""
        repository, tag = split(reference)
        found = self.registry.get_manifest(repository, tag)
        document = found.json()
        if "manifests" in document:
            (one,) = [entry for entry in document["manifests"] if entry["platform"]["architecture"] == "amd64"]
            document = self.registry.get_manifest(repository, one["digest"]).json()
        config = document["config"]["digest"]
        text = self.registry.request("GET", f"/v2/{repository}/blobs/{config}").json()
        return Seen(found.headers["docker-content-digest"], config, tuple(text["rootfs"]["diff_ids"]))


def split(reference: str) -> tuple[str, str]:
    """Repository and tag of `<host>/<repository>:<tag>`."""
    repository, _, tag = reference.partition("/")[2].rpartition(":")
    return repository, tag


def pairs() -> Iterator[object]:
    """All of them; the short run has each peer both ways with one way to Corten, and those ways among themselves."""
    everybody = (*PEERS, *OURS)
    for pusher in everybody:
        for puller in everybody:
            is_short = ({pusher, puller} & {SHORT} and {pusher, puller} & {*PEERS}) or pusher == puller in OURS
            yield pytest.param(pusher, puller, marks=() if is_short else pytest.mark.slow)


def shortly(clients: Iterable[str]) -> list[object]:
    """All of them; one in the short run."""
    return [pytest.param(one, marks=() if one == SHORT else pytest.mark.slow) for one in clients]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack, tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize(("pusher", "puller"), list(pairs()))
def test_what_one_client_pushes_another_pulls_with_the_same_digests(lab: Lab, pusher: str, puller: str) -> None:
    reference = lab.pushed(pusher)
    assert lab.clients[puller].pull(reference) == lab.stored(reference)


FORMS: dict[str, Callable[[], pullimages.Image]] = {
    "OCI": pullimages.several,
    "Docker": lambda: pullimages.several(docker=True),
    "bare layers": lambda: pullimages.several(compression="none"),
    "zstd": lambda: pullimages.several(compression="zstd"),
    "OCI index": pullimages.two_platforms,
    "Docker index": lambda: pullimages.two_platforms(docker=True),
}
CANNOT = {("zstd", "umoci")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("puller", shortly([*PEERS, *OURS]))
def test_every_form_of_an_image_is_pulled_with_its_own_digest(lab: Lab, form: str, puller: str) -> None:
    if (form, puller) in CANNOT:
        pytest.skip(f"{puller} knows no {form}")
    reference = FORMS[form]().push(lab.registry, f"forms/{form.lower().replace(' ', '-')}", "1")
    assert lab.clients[puller].pull(reference) == lab.stored(reference)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("client", shortly([*OURS, "skopeo"]))
def test_what_was_pulled_is_pushed_with_the_same_digest(lab: Lab, form: str, client: str) -> None:
    source = FORMS[form]().push(lab.registry, f"again/{form.lower().replace(' ', '-')}", "1")
    target = f"{source.removesuffix(':1')}-{client.lower().replace(' ', '-')}:2"
    digest = lab.clients[client].push_again(source, target)
    assert digest == lab.registry.digest(*split(target))
    assert lab.stored(target).config == lab.stored(source).config
    if "index" not in form or client == "skopeo":
        assert digest == lab.registry.digest(*split(source))


@pytest.mark.parametrize("client", OURS)
def test_a_file_is_the_same_on_the_other_side(lab: Lab, client: str) -> None:
    reference = lab.pushed(client)
    layer = lab.registry.get_manifest(*split(reference)).json()["layers"][-1]["digest"]
    blob = lab.registry.request("GET", f"/v2/{split(reference)[0]}/blobs/{layer}").body
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        stream = archive.extractfile("whose")
        assert stream is not None
        assert stream.read() == client.encode()


@pytest.mark.parametrize("docker", [False, True], ids=["OCI", "Docker"])
def test_an_index_whose_platforms_are_all_here_is_pushed_as_it_came(lab: Lab, docker: bool) -> None:
    image = pullimages.two_platforms(docker=docker)
    source = image.push(lab.registry, f"whole/{docker}".lower(), "1")
    target = f"{lab.registry.host}/whole/pushed-{docker}:1".lower()
    for child in image.children:
        lab.engine.docker("pull", "--platform", f"linux/{child.architecture}", source, check=True)
    lab.engine.docker("tag", source, target, check=True)
    lab.engine.docker("push", target, check=True)
    lab.engine.docker("rmi", source, target, check=True)
    assert lab.registry.digest(*split(target)) == image.digest
    for name in ("skopeo", "docker CLI and dockerd", "podman"):
        assert lab.clients[name].pull(target) == lab.stored(source)
