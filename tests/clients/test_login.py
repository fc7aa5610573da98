"""Logging in to registries, beside dockerd 26.1: the same answers to the same credentials, by API and command line."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker
import pytest

from clients.api import Api
from support import images, paths, peers, process, pullimages
from support.certificates import Authority
from support.console import in_terminal
from support.dockerd import DockerClient, Dockerd, client_environment
from support.engine import CortenEngine
from support.httpthread import HttpThread, listen
from support.netns import NetNs
from support.proxy import Proxy, Relay
from support.registries import PASSWORD, USER, Registry
from support.tokenserver import TokenServer

ADDRESS = "10.99.0.1"  # of the namespace, and not loopback: nobody calls it insecure
PROXY_USER = "me:p%3Aw"
PROXY_PORT = 3128
TYPED = ("Password: ", f"{PASSWORD}\n")


@dataclass(frozen=True)
class Lab:
    """Both engines in one network namespace, with what they log in to."""

    dockerd: Dockerd
    engine: CortenEngine
    basic: Registry
    tls: Registry
    tokens: Registry
    proxy: Proxy

    def servers(self) -> dict[str, str]:
        """Names for addresses."""
        return {
            "open-port": "127.0.0.1:1",
            "basic": self.basic.host,
            "tls": self.tls.host,
            "tokens": self.tokens.host,
            "verified": f"{ADDRESS}:{self.tls.port}",
            "proxied": f"reg.test:{self.basic.port}",
            "proxied-tls": f"reg.test:{self.tls.port}",
            "http": f"http://{self.basic.host}/v1/",
            "space": "a b",
        }


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("login")
    file = folder / "dockerd.json"
    file.write_text("{}")
    proxy_url = f"http://{PROXY_USER}@127.0.0.1:{PROXY_PORT}"
    proxies = ["--http-proxy", proxy_url, "--https-proxy", proxy_url, "--no-proxy", ADDRESS]
    with ExitStack() as stack:
        dockerd = stack.enter_context(Dockerd(args=["--bridge=none", "--config-file", str(file), *proxies]))
        netns = dockerd.netns
        netns.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"])
        engine = stack.enter_context(CortenEngine(netns=netns, args=proxies))
        basic = stack.enter_context(Registry(netns=netns, users={USER: PASSWORD}))
        tls = stack.enter_context(Registry(netns=netns, tls=True, users={USER: PASSWORD}))
        server = stack.enter_context(TokenServer(Authority(folder), {USER: PASSWORD}, netns=netns))
        tokens = stack.enter_context(Registry(netns=netns, tokens=server))
        proxy = stack.enter_context(Proxy(netns=netns, user="me:p:w", port=PROXY_PORT))
        stack.enter_context(Relay(netns, ADDRESS, tls.port))
        insecure = {"insecure-registries": [f"reg.test:{basic.port}", f"reg.test:{tls.port}"]}
        reload(dockerd.pid, file, insecure)
        reload(engine.pid, engine.config_file, insecure)
        process.wait_for(lambda: all("reg.test" in one.docker("info").stdout for one in (dockerd, engine)), "reload")
        yield Lab(dockerd, engine, basic, tls, tokens, proxy)


def reload(pid: int, file: Path, values: Any) -> None:
    file.write_text(json.dumps(values))
    os.kill(pid, signal.SIGHUP)


CASES = [
    ("basic", USER, PASSWORD),
    ("basic", USER, "wrong"),
    ("basic", USER, ""),
    ("basic", "", ""),
    ("http", USER, PASSWORD),
    ("tls", USER, PASSWORD),
    ("tokens", USER, PASSWORD),
    ("tokens", USER, "wrong"),
    ("tokens", "", ""),
    ("proxied", USER, PASSWORD),
    ("proxied", USER, "wrong"),
    ("proxied-tls", USER, PASSWORD),
    ("open-port", USER, PASSWORD),
]


@pytest.mark.parametrize(("server", "name", "password"), CASES, ids=[" ".join(case) for case in CASES])
def test_the_api_answers_as_dockerd_does(lab: Lab, server: str, name: str, password: str) -> None:
    body = {"username": name, "password": password, "serveraddress": lab.servers()[server]}
    theirs, ours = (_auth(one, body) for one in (lab.dockerd, lab.engine))
    assert ours == theirs


def test_a_registry_that_speaks_tls_is_not_asked_without_when_it_refuses(lab: Lab) -> None:
    body = {"username": USER, "password": "wrong", "serveraddress": lab.tls.host}
    tried = f"login attempt to {{}}://{lab.tls.host}/v2/ failed with status: "
    theirs, ours = (_auth(one, body)["failed"] for one in (lab.dockerd, lab.engine))
    assert theirs == f"{tried.format('http')}400 Bad Request"  # sends the password once more, for all to read
    assert ours == f"{tried.format('https')}401 Unauthorized"


def test_a_certificate_of_nobody_known_is_refused(lab: Lab) -> None:
    body = {"username": USER, "password": PASSWORD, "serveraddress": lab.servers()["verified"]}
    theirs, ours = (_auth(one, body)["failed"] for one in (lab.dockerd, lab.engine))
    start = f'Get "https://{lab.servers()["verified"]}/v2/": tls: failed to verify certificate: x509: certificate '
    assert theirs == f"{start}is valid for 127.0.0.1, not {ADDRESS}"  # Go looks at the name first, OpenSSL at the chain
    assert ours == f"{start}signed by unknown authority"


def test_an_identity_token_proves_who_the_user_is(lab: Lab) -> None:
    body = {"username": USER, "password": PASSWORD, "serveraddress": lab.tokens.host}
    for token in ("", "wrong"):
        answers = []
        for engine in (lab.dockerd, lab.engine):
            got = token or Api(engine.socket, "1.45").ok("POST", "/auth", body)["IdentityToken"]
            answers.append(_auth(engine, {"identitytoken": got, "serveraddress": lab.tokens.host}))
        assert answers[0] == answers[1]
        assert ("Status" in answers[0]) == (not token)


ODD = {
    "nothing": (404, {}),
    "broken": (500, {}),
    "busy": (503, {"Retry-After": "0"}),
    "no-challenge": (401, {}),
    "digest": (401, {"WWW-Authenticate": 'Digest realm="x"'}),
    "bearer-without-realm": (401, {"WWW-Authenticate": "Bearer service=x"}),
    "denied": (403, {}),
    "empty": (204, {}),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_registry_is_told_as_by_dockerd(lab: Lab, name: str) -> None:
    status, headers = ODD[name]
    with _server(lab.engine.netns, status, headers) as server:
        body = {"username": USER, "password": PASSWORD, "serveraddress": server.host}
        theirs, ours = (_auth(one, body) for one in (lab.dockerd, lab.engine))
    assert ours == theirs


def _server(netns: NetNs, status: int, headers: dict[str, str]) -> HttpThread:
    class Odd(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return HttpThread(Odd, netns=netns)


def _auth(engine: DockerClient, body: Any) -> Any:
    status, answer = Api(engine.socket, "1.45").call("POST", "/auth", body)
    if answer.get("IdentityToken"):
        answer["IdentityToken"] = "<token>"
    return answer if status == 200 else {"failed": answer["message"]}


def cli(program: Path, engine: DockerClient, folder: Path, *args: str, stdin: str = "") -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command line whose config.json is in `folder`."""
    env = client_environment() | {"DOCKER_CONFIG": str(folder)}
    argv = [str(program), "-H", engine.host, *args]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=60, env=env)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("server", ["basic", "tokens"])
def test_dockers_command_line_logs_in_to_both_engines_alike(lab: Lab, tmp_path: Path, server: str) -> None:
    kept = []
    for name, engine in (("dockerd", lab.dockerd), ("corten", lab.engine)):
        folder = tmp_path / name
        host = lab.servers()[server]
        done = cli(peers.docker_cli(), engine, folder, "login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
        assert (done[0], done[1].splitlines()[-1]) == (0, "Login Succeeded")
        (entry,) = json.loads((folder / "config.json").read_text())["auths"].values()
        kept.append(entry | ({"identitytoken": "<token>"} if "identitytoken" in entry else {}))
        wrong = cli(peers.docker_cli(), engine, folder, "login", "-u", USER, "--password-stdin", host, stdin="wrong")
        kept.append(wrong)
    assert kept[:2] == kept[2:]


@pytest.mark.parametrize("server", ["basic", "tokens"])
def test_what_corten_keeps_is_what_docker_keeps(lab: Lab, tmp_path: Path, server: str) -> None:
    host = lab.servers()[server]
    words = ["login", "-u", USER, "--password-stdin", host]
    kept = {}
    for program in (peers.docker_cli(), paths.COMMANDS / "corten"):
        folder = tmp_path / program.name
        assert cli(program, lab.engine, folder, *words, stdin=f"{PASSWORD}\n")[:2] == (0, "Login Succeeded\n")
        entry = json.loads((folder / "config.json").read_text())["auths"][host]
        kept[program.name] = entry | ({"identitytoken": "<token>"} if "identitytoken" in entry else {})
    docker, corten = kept.values()
    assert corten == docker


def test_docker_py_logs_in_and_pulls(lab: Lab) -> None:
    reference = pullimages.busybox().push(lab.basic, "py/stone", "1")
    client = lab.engine.client()
    try:
        with pytest.raises(docker.errors.APIError, match="401 Unauthorized"):
            client.login(USER, "wrong", registry=lab.basic.host)
        with pytest.raises(docker.errors.APIError, match="no basic auth credentials"):
            client.images.pull(reference)
        assert client.login(USER, PASSWORD, registry=lab.basic.host)["Status"] == "Login Succeeded"
        assert client.images.pull(reference).tags == [reference]  # by the login that docker-py remembers
        client.images.remove(reference)
    finally:
        client.close()


def test_no_secret_is_in_the_log(lab: Lab) -> None:
    body = {"username": USER, "password": PASSWORD}
    for server in ("basic", "tokens", "proxied"):
        Api(lab.engine.socket).ok("POST", "/auth", body | {"serveraddress": lab.servers()[server]})
    text = lab.engine.log.read_text()
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    proxy = base64.b64encode(b"me:p:w").decode()
    assert "Reloaded configuration" in text
    assert not [secret for secret in (PASSWORD, basic, proxy, PROXY_USER, "Bearer ") if secret in text]


def test_each_command_line_takes_over_the_others_login(lab: Lab, tmp_path: Path) -> None:
    docker, corten = peers.docker_cli(), paths.COMMANDS / "corten"
    for first, second in ((docker, corten), (corten, docker)):
        folder = tmp_path / first.name
        words = ["login", "-u", USER, "--password-stdin", lab.basic.host]
        assert cli(first, lab.engine, folder, *words, stdin=PASSWORD)[0] == 0
        status, out, err = cli(second, lab.engine, folder, "login", lab.basic.host)
        assert (status, out.splitlines()[-1:]) == (0, ["Login Succeeded"]), err
        gone = f"Removing login credentials for {lab.basic.host}\n"
        assert cli(second, lab.engine, folder, "logout", lab.basic.host)[:2] == (0, gone)
        assert json.loads((folder / "config.json").read_text())["auths"] == {}


@pytest.mark.parametrize("name", [[], ["-u", USER]])
def test_a_terminal_is_asked_for_what_is_missing(lab: Lab, tmp_path: Path, name: list[str]) -> None:
    shown = {}
    for program in (peers.docker_cli(), paths.COMMANDS / "corten"):
        env = client_environment() | {"DOCKER_CONFIG": str(tmp_path / program.name), "TERM": "dumb"}
        argv = [str(program), "-H", lab.engine.host, "login", *name, lab.basic.host]
        status, text = in_terminal(argv, env, typed=[*([] if name else [("Username: ", f"{USER}\n")]), TYPED])
        assert status == 0, text
        assert PASSWORD not in text
        shown[program.name] = [line.rstrip() for line in text.splitlines() if "WARNING" not in line]
    assert shown["corten"][: 2 - len(name) // 2] == shown["docker"][: 2 - len(name) // 2]
    assert shown["corten"][-1] == shown["docker"][-1] == "Login Succeeded"
    for words in (("\n",), (f"{USER}\n", "\n")):
        prompts = [("Username: ", words[0]), *[("Password: ", word) for word in words[1:]]]
        env = client_environment() | {"DOCKER_CONFIG": str(tmp_path / "none")}
        argv = [str(paths.COMMANDS / "corten"), "-H", lab.engine.host, "login", lab.basic.host]
        status, text = in_terminal(argv, env, typed=prompts)
        missing = "Password Required" if words[1:] else "Non-null Username Required"
        assert (status, text.splitlines()[-1]) == (1, f"Error: {missing}")


def test_a_wrong_password_is_told_and_nothing_kept(lab: Lab, tmp_path: Path) -> None:
    words = ["login", "-u", USER, "--password-stdin", lab.basic.host]
    status, out, err = cli(paths.COMMANDS / "corten", lab.engine, tmp_path, *words, stdin="wrong")
    text = f"login attempt to http://{lab.basic.host}/v2/ failed with status: 401 Unauthorized"
    assert (status, out, err) == (1, "", f"Error response from daemon: {text}\n")
    assert not (tmp_path / "config.json").exists()


def test_logins_went_through_the_proxy_with_its_password(lab: Lab) -> None:
    for server in ("proxied", "proxied-tls"):
        body = {"username": USER, "password": PASSWORD, "serveraddress": lab.servers()[server]}
        Api(lab.engine.socket).ok("POST", "/auth", body)
        # of any login so far: connections are kept
        assert f"CONNECT {lab.servers()[server]}" in lab.proxy.asked
        plain = f"GET http://{lab.servers()[server]}/v2/"
        assert (plain in lab.proxy.asked) == (server == "proxied")
    before = len(lab.proxy.asked)
    Api(lab.engine.socket).ok("POST", "/auth", body | {"serveraddress": lab.basic.host})
    assert len(lab.proxy.asked) == before


@pytest.mark.parametrize("program", [peers.docker_cli(), paths.COMMANDS / "corten"], ids=lambda path: path.name)
def test_an_identity_token_pulls_in_the_passwords_place(lab: Lab, tmp_path: Path, program: Path) -> None:
    reference = pullimages.busybox().push(lab.tokens, "secret/stone", "1")
    assert cli(program, lab.engine, tmp_path, "pull", reference)[0] == 1
    words = ["login", "-u", USER, "--password-stdin", lab.tokens.host]
    assert cli(program, lab.engine, tmp_path, *words, stdin=PASSWORD)[0] == 0
    assert PASSWORD not in (tmp_path / "config.json").read_text()
    status, _, err = cli(program, lab.engine, tmp_path, "pull", reference)
    assert status == 0, err
    assert cli(program, lab.engine, tmp_path, "rmi", reference)[0] == 0


def test_info_says_proxies_user_and_registries_as_dockers(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": "c3VlOng="}}}))
    shown = []
    for program in (peers.docker_cli(), paths.COMMANDS / "corten"):
        out = cli(program, lab.engine, tmp_path, "info")[1]
        shown.append(out.partition("\n HTTP Proxy:")[2].rstrip().splitlines())
    docker, corten = shown
    assert docker[1:4] == [
        f" HTTPS Proxy: http://xxxxx:xxxxx@127.0.0.1:{PROXY_PORT}",
        f" No Proxy: {ADDRESS}",
        " Username: sue",
    ]
    assert sorted(corten) == sorted(docker)  # Docker's command line shows the registries in the order of a Go map


def test_proxies_of_config_json_reach_containers_as_by_docker(lab: Lab, tmp_path: Path) -> None:
    proxies = {"default": {"httpProxy": "http://p", "noProxy": "a,b"}, "tcp://other": {"ftpProxy": "ftp://f"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    lab.engine.docker("load", "-i", str(images.busybox()), check=True)
    seen = []
    for program in (peers.docker_cli(), paths.COMMANDS / "corten"):
        words = ["run", "--rm", "-e", "no_proxy=mine", images.BUSYBOX_REF, "env"]
        status, out, err = cli(program, lab.engine, tmp_path, *words)
        assert status == 0, err
        seen.append(sorted(line for line in out.splitlines() if "proxy" in line.lower()))
    wanted = ["HTTP_PROXY=http://p", "NO_PROXY=a,b", "http_proxy=http://p", "no_proxy=mine"]
    assert seen == [wanted, wanted]


def test_a_server_of_hosts_toml_is_verified_with_its_own_authority(lab: Lab) -> None:
    certs = lab.engine.folder / "certs.d"
    body = {"username": USER, "password": PASSWORD, "serveraddress": "named.example"}
    place = certs / "named.example"
    place.mkdir(parents=True)
    api = Api(lab.engine.socket)
    (place / "hosts.toml").write_text(f'server = "{lab.tls.url}"\nskip_verify = false\n')
    status, answer = api.call("POST", "/auth", body)
    assert status >= 400
    assert "certificate signed by unknown authority" in answer["message"]
    (place / "hosts.toml").write_text(f'server = "{lab.tls.url}"\nskip_verify = false\nca = "{lab.tls.ca}"\n')
    assert api.ok("POST", "/auth", body)["Status"] == "Login Succeeded"
    (place / "hosts.toml").write_text("server = 5\n")
    status, answer = api.call("POST", "/auth", body)
    assert (status, answer["message"]) == (400, f"{place}/hosts.toml: server: not a string")


HELPER = """#!/bin/sh
echo "$1 $(cat)" | sed 's/": "/":"/g; s/", "/","/g' >> "$HELPER_LOG"
test "$1" != get || { echo 'credentials not found in native keychain'; exit 1; }
"""


def test_a_helper_is_called_as_docker_calls_it(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-fake"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = []
    for program in (peers.docker_cli(), paths.COMMANDS / "corten"):
        folder, log = tmp_path / f"{program.name}.d", tmp_path / f"{program.name}.log"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"credHelpers": {lab.basic.host: "fake"}}))
        env = client_environment() | {"DOCKER_CONFIG": str(folder), "HELPER_LOG": str(log)}
        for words in (["login", "-u", USER, "-p", PASSWORD], ["pull"], ["logout"]):
            what = f"{lab.basic.host}/quarry/stone" if words == ["pull"] else lab.basic.host
            argv = [str(program), "-H", lab.engine.host, *words, what]
            subprocess.run(argv, check=False, capture_output=True, timeout=60, env=env)
        said.append([line.rstrip() for line in log.read_text().splitlines()])
    docker, corten = said
    assert docker[:2] == [
        f'store {{"ServerURL":"{lab.basic.host}","Username":"{USER}","Secret":"{PASSWORD}"}}',
        f"get {lab.basic.host}",
    ]
    assert corten == docker


def test_a_client_that_goes_away_ends_its_login(lab: Lab) -> None:
    body = {"username": USER, "password": PASSWORD, "serveraddress": ""}
    with listen(lab.engine.netns) as silent:
        silent.settimeout(60)
        body["serveraddress"] = f"127.0.0.1:{silent.getsockname()[1]}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(lab.engine.socket))
            data = json.dumps(body).encode()
            lines = ["POST /auth HTTP/1.1", "Host: d", "Content-Type: application/json", f"Content-Length: {len(data)}"]
            client.sendall("\r\n".join([*lines, "", ""]).encode() + data)
            asked, _ = silent.accept()
        with asked:
            asked.settimeout(60)
            while asked.recv(4096):
                pass
