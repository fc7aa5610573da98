"""`corten context` beside docker's: the same answers, the same files, and each reads what the other wrote.

No engine is needed: each program has a home of its own, with the same files in it.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest

from clients.test_corten_same import Answer
from support import paths, peers
from support.certificates import Authority
from support.dockerd import client_environment

PROGRAMS = {"corten": "docker", "docker": "corten"}  # and the other one
SOCKETS = ("unix:///var/run/docker.sock", "unix:///run/corten/corten.sock")

# A row is a command line, with variables in front; each script starts with an empty home that has ca, cert and key.
SCRIPTS = {
    "without any": """
        show
        ls
        ls -q
        ls --format json
        ls --format {{.Nope}}
        ls x
        inspect
        inspect nope
        inspect -f {{.Name}}
        show x
        use
        use nope
        use default
        rm
        rm default
        rm nope b
        rm -f nope
        update
        update default --description x
        update nope
        export nope
        export
        export a b c
        import x
        import four nofile
        import default x
        DOCKER_CONTEXT=nope show
        DOCKER_CONTEXT=nope ls
        DOCKER_HOST=unix:///x show
        DOCKER_HOST=unix:///x ls
        DOCKER_HOST=unix:///x inspect
        -H unix:///x ls
        -H unix:///x inspect
        -c nope show
        -c nope inspect
        -c nope -H unix:///x show
        -c default -H unix:///x show
    """,
    "created": """
        create
        create a
        create 'a b'
        create default
        create one
        create one
        create two --docker host=tcp://1.2.3.4:2376,skip-tls-verify=1 --description 'a <b>'
        create three --docker from=two,host=x
        create four --from two
        create five --from two --description other
        create six --from default
        create seven --docker nope=1
        create seven --docker host=foo
        create seven --docker from=nope
        create seven --from nope
        create seven --from one --docker host=tcp://x
        create seven --docker ''
        create seven --docker host=tcp://x,zz,ca=ca
        create seven --docker host=tcp://x,skip-tls-verify=maybe
        create seven --docker host=tcp://x,ca=/nowhere
        create seven --docker host=tcp://x,ca=openssl.cnf
        create seven --docker host=tcp://x --docker skip-tls-verify=true
        create eight --docker host=
        create c10 --docker host=ssh://me@host
        create c9 --docker host=tcp://x
        ls
        ls -q
        ls --format json
        ls --format '{{.Name}} {{.Current}} {{.DockerEndpoint}} {{.Description}} {{.Error}}'
        ls --format 'table {{.Name}}\\t{{.Description}}'
        inspect two five
        inspect two nope
        inspect -f '{{.Name}} {{.Endpoints.docker.Host}}' two
        inspect -f json two
        inspect -f '{{.Nope}}' two
        create -x
    """,
    "used": """
        create one --docker host=tcp://1.2.3.4
        create two --docker host=unix:///x
        use one
        show
        ls
        DOCKER_HOST=unix:///x ls
        DOCKER_HOST=unix:///x show
        DOCKER_HOST=unix:///x use two
        DOCKER_CONTEXT=one show
        DOCKER_CONTEXT=one ls
        DOCKER_CONTEXT=one rm one
        -c one show
        -H unix:///y show
        rm two
        inspect
        create three
        inspect three
        rm -f two
        show
        -c three rm three
        use three
        use default
        rm one three
        ls -q
    """,
    "with files": """
        create one --docker host=tcp://1.2.3.4:2376,ca=ca.crt,cert=client.crt,key=client.key
        create two --from one
        create three --docker from=one
        inspect one two three
        export one
        export one
        import four one.dockercontext
        import four one.dockercontext
        import - one.dockercontext
        inspect four
        import five openssl.cnf
        update one --description new
        update one --docker host=tcp://5.5.5.5
        update one --docker nope=1
        inspect one
        ls
        rm one two
        inspect one
    """,
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    Authority(folder).issue("client")
    return folder


def home(certificates: Path, folder: Path) -> Path:
    made = folder / "home"
    made.mkdir(parents=True)
    for path in certificates.iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    return made


def run(program: str, line: str, folder: Path) -> Answer:
    """What `PROGRAM context LINE` answers, with what is another's for each program taken out."""
    words = shlex.split(line)
    count = next(index for index, word in enumerate(words) if "=" not in word or not word[0].isupper())
    environment = client_environment() | {"DOCKER_CONFIG": f"{folder}/.docker"}
    environment |= dict(word.split("=", 1) for word in words[:count])
    front: list[str] = []
    rest = words[count:]
    while rest and rest[0] in ("-c", "-H"):
        front, rest = [*front, *rest[:2]], rest[2:]
    argv = [str(peers.docker_cli() if program == "docker" else paths.COMMANDS / program), *front, "context", *rest]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=environment, cwd=folder)
    return done.returncode, plain(done.stdout, folder), plain(done.stderr, folder)


def plain(text: str, folder: Path) -> str:
    for socket in SOCKETS:
        text = text.replace(socket, "SOCKET")
    text = text.replace(str(folder), "HOME")
    for program in PROGRAMS:
        text = text.replace(f"{program}: '{program} ", "CLI: 'CLI ").replace(f"{program} context", "CLI context")
    return re.sub(r" {3,}", "   ", text).rstrip()  # a column is as wide as the socket's path


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """All that the store has: mode and text by path."""
    found = {}
    for path in sorted((folder / ".docker/contexts").rglob("*")):
        text = plain(path.read_text(), folder) if path.is_file() else ""
        found[str(path.relative_to(folder))] = (path.stat().st_mode & 0o777, text)
    return found


LONG = ("without any", "with files")


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in SCRIPTS]
)
def test_a_script_has_the_same_answers_and_leaves_the_same_files(
    script: str, certificates: Path, tmp_path: Path
) -> None:
    ours, theirs = (home(certificates, tmp_path / program) for program in PROGRAMS)
    different = []
    for line in filter(None, map(str.strip, SCRIPTS[script].splitlines())):
        answers = run("docker", line, theirs), run("corten", line, ours)
        if answers[0] != answers[1]:
            different.append((line, *answers))
    assert not different, "\n".join(map(str, different))
    assert tree(ours) == tree(theirs)


def test_each_reads_what_the_other_wrote(certificates: Path, tmp_path: Path) -> None:
    folder = home(certificates, tmp_path)
    files = "ca=ca.crt,cert=client.crt,key=client.key"
    for program, other in PROGRAMS.items():
        assert run(program, f"create {program} --docker host=tcp://1.2.3.4:1,{files}", folder)[0] == 0
        assert run(program, f"export {program}", folder)[0] == 0
        assert run(other, f"import {program}-again {program}.dockercontext", folder)[0] == 0
        assert run(other, f"use {program}", folder)[0] == 0
        assert run(program, "show", folder)[1] == program
    assert run("docker", "inspect docker corten docker-again corten-again", folder) == run(
        "corten", "inspect docker corten docker-again corten-again", folder
    )
    assert run("corten", "ls", folder) == run("docker", "ls", folder)


def test_a_context_that_is_gone_is_told_by_every_verb_that_needs_an_engine(tmp_path: Path) -> None:
    argv = [str(paths.COMMANDS / "corten"), "ps"]
    environment = client_environment() | {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "nope"}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=environment)
    text = 'Failed to initialize: unable to resolve docker endpoint: context "nope": context not found: open '
    assert (done.returncode, done.stderr.startswith(text)) == (1, True), done.stderr


@pytest.mark.parametrize(
    "name", ["../meta.json", "tls/docker/../../x", "tls/../x", "/etc/passwd", "tls/docker/a/b", "x"]
)
def test_an_archive_with_a_foreign_path_is_refused_and_writes_nothing(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad", "w") as archive:
        for member in ("meta.json", name):
            made = tarfile.TarInfo(member)
            made.size = 13
            archive.addfile(made, io.BytesIO(b'{"Name": "x"}'))
    before = sorted(os.listdir(tmp_path.parent))
    code, _, said = run("corten", "import made bad", tmp_path)
    assert (code, said.endswith("unexpected context file")) == (1, True), said
    assert not (tmp_path / ".docker").exists()
    assert sorted(os.listdir(tmp_path.parent)) == before
