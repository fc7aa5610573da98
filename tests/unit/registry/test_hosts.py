"""Which servers are asked for a registry, by settings, hosts.toml and certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.errors import InvalidArgument
from corten.registry.endpoint import Endpoint, Tls
from corten.registry.hosts import Hosts, Purpose, certificates

PULL, PUSH, LOGIN = Purpose.PULL, Purpose.PUSH, Purpose.LOGIN
NAMES = {"ten.example": ["10.1.2.3"], "local.example": ["127.0.0.1"], "six.example": ["fd00::1", "::2"]}


def hosts(tmp_path: Path, **settings: list[str]) -> Hosts:
    return Hosts(certs_dirs=[str(tmp_path)], lookup=lambda name: NAMES.get(name, ()), **settings)


def urls(found: tuple[Endpoint, ...]) -> list[str]:
    return [one.url for one in found]


def folder(tmp_path: Path, host: str, **files: str) -> Path:
    place = tmp_path / host
    place.mkdir()
    for name, text in files.items():
        (place / name.replace("_", ".")).write_text(text)
    return place


def test_a_registry_is_asked_itself_by_tls_alone(tmp_path: Path) -> None:
    assert hosts(tmp_path).endpoints("reg.example:5000", PULL) == (Endpoint("https://reg.example:5000/v2"),)


def test_docker_io_is_asked_after_its_mirrors_and_pushed_to_itself(tmp_path: Path) -> None:
    found = hosts(tmp_path, mirrors=["http://m.example/", "https://n.example/sub/"])
    for domain in ("docker.io", "index.docker.io"):
        wanted = ["http://m.example/v2", "https://n.example/sub/v2", "https://registry-1.docker.io/v2"]
        assert urls(found.endpoints(domain, PULL)) == wanted
        assert urls(found.endpoints(domain, PUSH)) == wanted[2:]
        assert urls(found.endpoints(domain, LOGIN)) == wanted[2:]
    assert [one.is_mirror for one in found.endpoints("docker.io", PULL)] == [True, True, False]
    assert urls(found.endpoints("reg.example", PULL)) == ["https://reg.example/v2"]


@pytest.mark.parametrize(
    "domain",
    [
        "named.example:5000",
        "10.9.9.9:5000",
        "ten.example:5000",
        "127.0.0.1:5000",
        "127.9.9.9",
        "local.example",
        "[::1]",
    ],
)
def test_an_insecure_registry_is_not_verified_and_may_do_without_tls(tmp_path: Path, domain: str) -> None:
    found = hosts(tmp_path, insecure=["named.example:5000", "10.0.0.0/8"]).endpoints(domain, PULL)
    assert found == (Endpoint(f"https://{domain}/v2", tls=Tls(skip_verify=True), plain_http_fallback=True),)


@pytest.mark.parametrize(
    "domain", ["named.example", "named.example:5001", "11.0.0.1", "six.example", "unknown.example"]
)
def test_others_are_verified(tmp_path: Path, domain: str) -> None:
    found = hosts(tmp_path, insecure=["named.example:5000", "10.0.0.0/8"]).endpoints(domain, PULL)
    assert found == (Endpoint(f"https://{domain}/v2"),)


def test_docker_io_itself_is_never_insecure(tmp_path: Path) -> None:
    found = hosts(tmp_path, insecure=["docker.io", "registry-1.docker.io", "0.0.0.0/0"]).endpoints("docker.io", PULL)
    assert found == (Endpoint("https://registry-1.docker.io/v2"),)


def test_certificates_are_those_of_the_folder(tmp_path: Path) -> None:
    place = folder(tmp_path, "reg.example:5000", b_crt="", a_crt="", me_cert="", me_key="", notes_txt="")
    tls = hosts(tmp_path).endpoints("reg.example:5000", PULL)[0].tls
    assert tls.ca_files == (f"{place}/a.crt", f"{place}/b.crt")
    assert tls.client_certs == ((f"{place}/me.cert", f"{place}/me.key"),)
    assert not tls.skip_verify


def test_the_first_folder_wins(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    folder(tmp_path / "one", "a.example", own_crt="")
    for host in ("a.example", "b.example"):
        folder(tmp_path / "two", host, docker_crt="")
    found = Hosts(certs_dirs=[str(tmp_path / "one"), str(tmp_path / "two")], lookup=lambda _: ())
    assert found.endpoints("a.example", PULL)[0].tls.ca_files == (f"{tmp_path}/one/a.example/own.crt",)
    assert found.endpoints("b.example", PULL)[0].tls.ca_files == (f"{tmp_path}/two/b.example/docker.crt",)


def test_half_a_pair_of_certificates_is_refused(tmp_path: Path) -> None:
    lone = folder(tmp_path, "a", me_cert="")
    text = "missing key me.key for client certificate me.cert. CA certificates must use the extension .crt"
    with pytest.raises(InvalidArgument, match=text):
        certificates(str(lone))
    lone = folder(tmp_path, "b", me_key="")
    with pytest.raises(InvalidArgument, match=r"missing client certificate me.cert for key me.key"):
        certificates(str(lone))


WHOLE = """
server = "https://reg.example"
[host."http://near.example:5000"]
  capabilities = ["pull", "resolve"]
  [host."http://near.example:5000".header]
    x-one = "1"
    X-Two = ["2", "3"]
[host."https://proxy.example/reg"]
  capabilities = ["pull"]
  ca = "proxy.pem"
  client = [["me.pem", "me.key"], ["both.pem", ""]]
  skip_verify = true
[host."https://whole.example/custom/root/"]
  override_path = true
  ca = ["/abs.pem", "b.pem"]
  client = "both.pem"
"""


def test_hosts_toml_lists_mirrors_in_its_order_and_the_registry_last(tmp_path: Path) -> None:
    place = folder(tmp_path, "reg.example", hosts_toml=WHOLE)
    near, proxy, whole, itself = hosts(tmp_path).endpoints("reg.example", PULL)
    assert near == Endpoint(
        "http://near.example:5000/v2",
        can_push=False,
        headers=(("x-one", "1"), ("X-Two", "2"), ("X-Two", "3")),
        namespace="reg.example",
        is_mirror=True,
    )
    assert (proxy.url, proxy.can_pull, proxy.can_resolve, proxy.can_push) == (
        "https://proxy.example/reg/v2",
        True,
        False,
        False,
    )
    assert proxy.tls == Tls(
        ca_files=(f"{place}/proxy.pem",),
        client_certs=((f"{place}/me.pem", f"{place}/me.key"), (f"{place}/both.pem", f"{place}/both.pem")),
        skip_verify=True,
    )
    assert whole.url == "https://whole.example/custom/root"
    assert whole.tls.ca_files == ("/abs.pem", f"{place}/b.pem")
    assert whole.tls.client_certs == ((f"{place}/both.pem", f"{place}/both.pem"),)
    assert itself == Endpoint("https://reg.example/v2")
    assert [one.is_mirror for one in (near, proxy, whole, itself)] == [True, True, True, False]


def test_pushes_go_to_what_may_be_pushed_to_and_credentials_to_the_registry_alone(tmp_path: Path) -> None:
    folder(tmp_path, "reg.example", hosts_toml=WHOLE)
    found = hosts(tmp_path)
    assert urls(found.endpoints("reg.example", PUSH)) == [
        "https://whole.example/custom/root",
        "https://reg.example/v2",
    ]
    assert urls(found.endpoints("reg.example", LOGIN)) == ["https://reg.example/v2"]


def test_the_registry_is_what_it_always_was_where_hosts_toml_does_not_say(tmp_path: Path) -> None:
    folder(tmp_path, "127.0.0.1:5000", hosts_toml='[host."http://m.example"]\n')
    itself = hosts(tmp_path).endpoints("127.0.0.1:5000", PULL)[-1]
    assert itself == Endpoint("https://127.0.0.1:5000/v2", tls=Tls(skip_verify=True), plain_http_fallback=True)


def test_a_server_elsewhere_stands_for_the_registry_and_is_told_its_name(tmp_path: Path) -> None:
    folder(tmp_path, "reg.example", hosts_toml='server = "http://10.0.0.1:5000"\nskip_verify = true\n')
    (found,) = hosts(tmp_path).endpoints("reg.example", LOGIN)
    assert found == Endpoint("http://10.0.0.1:5000/v2", tls=Tls(skip_verify=True), namespace="reg.example")


def test_mirrors_of_docker_io_stand_before_its_hosts_toml(tmp_path: Path) -> None:
    folder(tmp_path, "docker.io", hosts_toml='[host."https://n.example"]\n')
    found = hosts(tmp_path, mirrors=["http://m.example/"]).endpoints("docker.io", PULL)
    assert urls(found) == ["http://m.example/v2", "https://n.example/v2", "https://registry-1.docker.io/v2"]
    assert [one.namespace for one in found] == ["", "docker.io", ""]


def test_the_default_folder_holds_for_registries_without_one_and_gets_no_credentials(tmp_path: Path) -> None:
    folder(tmp_path, "_default", hosts_toml='server = "https://all.example"\n')
    folder(tmp_path, "own.example", ca_crt="")
    found = hosts(tmp_path)
    assert found.endpoints("reg.example", PULL) == (
        Endpoint("https://all.example/v2", namespace="reg.example", is_mirror=True),
    )
    assert found.endpoints("reg.example", LOGIN) == ()
    assert urls(found.endpoints("own.example", PULL)) == ["https://own.example/v2"]


def test_a_mirrors_own_folder_says_whom_to_believe_there(tmp_path: Path) -> None:
    place = folder(tmp_path, "m.example:5000", ca_crt="")
    folder(tmp_path, "reg.example", hosts_toml='[host."https://m.example:5000"]\n')
    mirror = hosts(tmp_path).endpoints("reg.example", PULL)[0]
    assert mirror.tls.ca_files == (f"{place}/ca.crt",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server = ", "not TOML: "),
        ("server = 5", "server: not a string"),
        ('server = "ftp://x"', "server: not http[s]://host[:port][/path]"),
        ("host = 5", "host: not a table"),
        ('[host."https://u:p@x"]', 'host."https://u:p@x": not http[s]://host[:port][/path]'),
        ('[host."https://x?y"]', "not http[s]://"),
        ('[host.""]', 'host."": not http[s]://'),
        ('[host."x"]\ncapabilities = ["fly"]', "host.\"x\".capabilities: unknown capability 'fly'"),
        ('[host."x"]\ncapabilities = "pull"', 'host."x".capabilities: not a list'),
        ('[host."x"]\nskip_verify = "no"', 'host."x".skip_verify: not true or false'),
        ('[host."x"]\nca = 5', 'host."x".ca: not a path or a list of paths'),
        ('[host."x"]\nclient = [["a", "b", "c"]]', 'host."x".client: not a path'),
        ('[host."x"]\nskip_verfy = true', 'host."x".skip_verfy: unknown key'),
        ('[host."x".header]\na = "b\\r\\nc: d"', 'host."x".header.a: not a header that can be sent'),
        ('[host."x".header]\n"a b" = "c"', "not a header that can be sent"),
    ],
)
def test_a_hosts_toml_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    place = folder(tmp_path, "reg.example", hosts_toml=text)
    with pytest.raises(InvalidArgument) as caught:
        hosts(tmp_path).endpoints("reg.example", PULL)
    assert caught.value.text.startswith(f"{place}/hosts.toml: ")
    assert said in caught.value.text


@pytest.mark.parametrize("domain", ["..", ".", "../../etc", "a/../b", "_default", ""])
def test_a_name_that_is_no_host_is_no_folder(tmp_path: Path, domain: str) -> None:
    (tmp_path / "certs").mkdir()
    folder(tmp_path / "certs", "_default", hosts_toml="")
    (tmp_path / "hosts.toml").write_text("[")
    found = Hosts(certs_dirs=[str(tmp_path / "certs")], lookup=lambda _: ())
    assert urls(found.endpoints(domain, PULL)) == [f"https://{domain}/v2"]
