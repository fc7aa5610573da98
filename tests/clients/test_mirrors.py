"""Pulls by configuration: mirrors, hosts.toml, certificates, proxies and credentials; mirrors beside dockerd 26.1."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from support import process, pullimages
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine
from support.httpthread import HttpThread
from support.proxy import Proxy
from support.registries import PASSWORD, USER, Registry

NAME, TAG = "quarry/stone", "1"
PROXY_PORT = 3128


class _Trap(BaseHTTPRequestHandler):
    owner: Trap

    def do_GET(self) -> None:
        self.owner.asked.append((self.path, dict(self.headers)))
        body = b'{"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}'
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="trap"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: object) -> None:
        pass


class Trap(HttpThread):
    """A mirror that wants to know who asks; `asked` has paths and headers."""

    def __init__(self, **settings: Any) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__(_Trap, **settings)


@dataclass(frozen=True)
class Lab:
    """One engine, and registries that all have the image."""

    engine: CortenEngine
    plain: Registry
    basic: Registry
    tls: Registry
    trap: Trap
    proxy: Proxy

    @property
    def certs(self) -> Path:
        return self.engine.folder / "certs.d"

    def settings(self, values: Any) -> None:
        """daemon.json, read again."""
        before = self.engine.log.read_text().count("Reloaded configuration")
        self.engine.config_file.write_text(json.dumps(values))
        os.kill(self.engine.pid, signal.SIGHUP)
        process.wait_for(lambda: self.engine.log.read_text().count("Reloaded configuration") > before, "reload")

    def hosts(self, registry: str, text: str) -> Path:
        """hosts.toml of a registry, in a folder that is returned."""
        folder = self.certs / registry
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(text)
        return folder


@pytest.fixture(scope="module")
def whole() -> Iterator[Lab]:
    with ExitStack() as stack:
        proxy_url = f"http://127.0.0.1:{PROXY_PORT}"
        engine = stack.enter_context(CortenEngine(args=["--http-proxy", proxy_url, "--https-proxy", proxy_url]))
        netns = engine.netns
        plain = stack.enter_context(Registry(netns=netns))
        basic = stack.enter_context(Registry(netns=netns, users={USER: PASSWORD}))
        tls = stack.enter_context(Registry(netns=netns, tls=True, client_certs=True))
        for registry in (plain, basic, tls):
            pullimages.busybox().push(registry, NAME, TAG)
        trap = stack.enter_context(Trap(netns=netns))
        proxy = stack.enter_context(Proxy(netns=netns, port=PROXY_PORT))
        yield Lab(engine, plain, basic, tls, trap, proxy)


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    """Without images and settings of other tests."""
    yield whole
    whole.settings({})
    shutil.rmtree(whole.certs, ignore_errors=True)
    whole.trap.asked.clear()
    for name in whole.engine.docker("images", "-q", check=True).stdout.split():
        whole.engine.docker("rmi", "-f", name, check=True)


def pulled(engine: DockerClient, reference: str) -> None:
    """Pulls it, and looks at its names."""
    done = engine.docker("pull", "-q", reference)
    assert done.returncode == 0, done.stderr
    names = json.loads(engine.docker("image", "inspect", reference, check=True).stdout)[0]
    assert names["RepoTags"] == [reference]
    assert names["RepoDigests"] == [f"{reference.rpartition(':')[0]}@{pullimages.busybox().digest}"]


def test_docker_io_comes_from_its_mirror_as_with_dockerd(lab: Lab, tmp_path: Path) -> None:
    lab.settings({"registry-mirrors": ["http://127.0.0.1:1", lab.plain.url]})
    pulled(lab.engine, f"{NAME}:{TAG}")
    file = tmp_path / "daemon.json"
    file.write_text("{}")
    with (
        Dockerd(args=["--bridge=none", "--config-file", str(file)]) as dockerd,
        Registry(netns=dockerd.netns) as registry,
    ):
        pullimages.busybox().push(registry, NAME, TAG)
        file.write_text(json.dumps({"registry-mirrors": ["http://127.0.0.1:1", registry.url]}))
        os.kill(dockerd.pid, signal.SIGHUP)
        process.wait_for(lambda: registry.url in dockerd.docker("info").stdout, "reload")
        pulled(dockerd, f"{NAME}:{TAG}")


def test_a_registry_that_no_mirror_has_is_named_in_the_error(lab: Lab) -> None:
    lab.settings({"registry-mirrors": ["http://127.0.0.1:1"]})
    done = lab.engine.docker("pull", f"{NAME}:{TAG}")
    assert done.returncode == 1
    assert 'Get "https://registry-1.docker.io/v2/": ' in done.stderr


def test_a_mirror_gets_no_credentials(lab: Lab) -> None:
    lab.settings({"registry-mirrors": [lab.trap.url, lab.plain.url]})
    login = {"auths": {"https://index.docker.io/v1/": {"auth": base64.b64encode(b"sue:secret").decode()}}}
    folder = lab.engine.folder / "login"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(login))
    done = lab.engine.corten("--config", str(folder), "pull", "-q", f"{NAME}:{TAG}")
    assert done.returncode == 0, done.stderr
    assert lab.trap.asked
    assert not [headers for _, headers in lab.trap.asked if "Authorization" in headers]


def test_any_registry_may_have_mirrors_in_hosts_toml(lab: Lab) -> None:
    lab.hosts(
        "reg.example:5000",
        f"""
[host."http://127.0.0.1:1"]
[host."{lab.trap.url}"]
  capabilities = ["resolve", "pull"]
  [host."{lab.trap.url}".header]
    X-Quarry = "a"
[host."{lab.plain.url}"]
""",
    )
    pulled(lab.engine, f"reg.example:5000/{NAME}:{TAG}")
    path, headers = lab.trap.asked[0]
    assert path == f"/v2/{NAME}/manifests/{TAG}?ns=reg.example%3A5000"
    assert headers["X-Quarry"] == "a"


def test_a_default_folder_is_for_all_registries(lab: Lab) -> None:
    lab.hosts("_default", f'[host."{lab.plain.url}"]\n')
    pulled(lab.engine, f"any.example/{NAME}:{TAG}")


def test_a_registry_that_knows_its_clients_gets_the_certificate(lab: Lab) -> None:
    reference = f"{lab.tls.host}/{NAME}:{TAG}"
    refused = lab.engine.docker("pull", "-q", reference)
    assert refused.returncode == 1
    lab.tls.trust(lab.certs, lab.tls.client_pair())
    pulled(lab.engine, reference)
    shutil.rmtree(lab.certs)
    lab.hosts(lab.tls.host, f'server = "{lab.tls.url}"\nskip_verify = false\nca = "{lab.tls.ca}"\n')
    assert lab.engine.docker("pull", "-q", reference).returncode == 1


def test_half_a_pair_of_certificates_is_told(lab: Lab) -> None:
    lab.tls.trust(lab.certs, lab.tls.client_pair())
    (lab.certs / lab.tls.host / "client.key").unlink()
    done = lab.engine.docker("pull", "-q", f"{lab.tls.host}/{NAME}:{TAG}")
    text = "missing key client.key for client certificate client.cert. CA certificates must use the extension .crt"
    assert (done.returncode, done.stderr) == (1, f"Error response from daemon: {text}\n")


def test_a_private_image_needs_a_login(lab: Lab) -> None:
    reference = f"{lab.basic.host}/{NAME}:{TAG}"
    folder = lab.engine.folder / "private"
    done = lab.engine.corten("--config", str(folder), "pull", reference)
    assert (done.returncode, "no basic auth credentials" in done.stderr) == (1, True)
    words = ("login", "-u", USER, "--password-stdin", lab.basic.host)
    assert lab.engine.corten("--config", str(folder), *words, stdin=PASSWORD).returncode == 0
    done = lab.engine.corten("--config", str(folder), "run", "--rm", reference, "echo", "in")
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr
    lab.engine.corten("rmi", reference, check=True)
    created = lab.engine.corten("--config", str(folder), "create", "--name", "private", reference, "true")
    assert created.returncode == 0, created.stderr
    lab.engine.corten("rm", "private", check=True)
    assert lab.engine.corten("--config", str(folder), "logout", lab.basic.host).returncode == 0
    assert lab.engine.corten("--config", str(folder), "pull", reference).returncode == 1


def test_a_pull_goes_through_the_proxy(lab: Lab) -> None:
    host = f"far.test:{lab.plain.port}"
    lab.settings({"insecure-registries": [host]})
    before = len(lab.proxy.asked)
    pulled(lab.engine, f"{host}/{NAME}:{TAG}")
    asked = lab.proxy.asked[before:]
    assert asked[0] == f"CONNECT {host}"
    assert f"GET http://{host}/v2/{NAME}/blobs/{pullimages.busybox().layers[0].digest}" in asked


def test_a_hosts_toml_that_cannot_be_used_is_told(lab: Lab) -> None:
    folder = lab.hosts("reg.example", "[host.x]\nfly = true\n")
    done = lab.engine.docker("pull", "-q", f"reg.example/{NAME}:{TAG}")
    text = f'Error response from daemon: {folder}/hosts.toml: host."x".fly: unknown key\n'
    assert (done.returncode, done.stderr) == (1, text)


def test_a_push_needs_a_login_and_leaves_the_digest_as_it_is(lab: Lab) -> None:
    folder = lab.engine.folder / "push"
    reference = f"{lab.basic.host}/pushed/stone:1"
    pulled(lab.engine, f"{lab.plain.host}/{NAME}:{TAG}")
    lab.engine.docker("tag", f"{lab.plain.host}/{NAME}:{TAG}", reference, check=True)
    done = lab.engine.corten("--config", str(folder), "push", reference)
    assert (done.returncode, "no basic auth credentials" in done.stderr) == (1, True), done.stderr
    words = ("login", "-u", USER, "--password-stdin", lab.basic.host)
    lab.engine.corten("--config", str(folder), *words, stdin=PASSWORD, check=True)
    lab.engine.corten("--config", str(folder), "push", reference, check=True)
    assert lab.basic.digest("pushed/stone", "1") == pullimages.busybox().digest


def test_a_push_to_docker_io_goes_to_no_mirror(lab: Lab) -> None:
    pulled(lab.engine, f"{lab.plain.host}/{NAME}:{TAG}")
    lab.engine.docker("tag", f"{lab.plain.host}/{NAME}:{TAG}", "quarry/mine:1", check=True)
    lab.settings({"registry-mirrors": [lab.trap.url, lab.plain.url]})
    done = lab.engine.docker("push", "quarry/mine:1")
    assert done.returncode == 1
    assert lab.trap.asked == []
    assert lab.plain.request("GET", "/v2/quarry/mine/tags/list").status == 404


def test_a_push_goes_where_hosts_toml_says(lab: Lab) -> None:
    lab.hosts(
        "reg.example",
        f"""
server = "{lab.plain.url}"
[host."{lab.trap.url}"]
  capabilities = ["pull", "resolve"]
""",
    )
    pulled(lab.engine, f"{lab.plain.host}/{NAME}:{TAG}")
    lab.engine.docker("tag", f"{lab.plain.host}/{NAME}:{TAG}", "reg.example/by/name:1", check=True)
    lab.engine.docker("push", "-q", "reg.example/by/name:1", check=True)
    assert lab.plain.digest("by/name", "1") == pullimages.busybox().digest
    assert lab.trap.asked == []


def test_a_push_goes_through_the_proxy(lab: Lab) -> None:
    host = f"far.test:{lab.plain.port}"
    lab.settings({"insecure-registries": [host]})
    pulled(lab.engine, f"{lab.plain.host}/{NAME}:{TAG}")
    lab.engine.docker("tag", f"{lab.plain.host}/{NAME}:{TAG}", f"{host}/far/stone:1", check=True)
    before = len(lab.proxy.asked)
    lab.engine.docker("push", "-q", f"{host}/far/stone:1", check=True)
    assert f"PUT http://{host}/v2/far/stone/manifests/1" in lab.proxy.asked[before:]
    assert lab.plain.digest("far/stone", "1") == pullimages.busybox().digest
