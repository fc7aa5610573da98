"""Node defaults: who says what, and what is no limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corten.errors import InvalidArgument, NotFound
from corten.runtime import args, defaults, prepare
from corten.runtime.options import CreateOptions
from corten.spec.resources import parse_resources


def settings(*words: str) -> args.Options:
    return args.parse(["corten-runtime", *words, "state", "x"]).settings


def limit(given: args.Options) -> tuple[int, str]:
    found = defaults.of(given)
    return found.pids_limit, found.pids_limit_origin


def test_without_a_word_the_limit_is_the_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "CONFIG_PATH", str(tmp_path / "nowhere.json"))
    assert limit(settings()) == (500, "built-in default")
    assert defaults.of(settings()).node is None


def test_a_file_changes_it_and_a_flag_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "runtime.json"
    path.write_text('{"default-pids-limit": 77}')
    assert limit(settings("--config", str(path))) == (77, str(path))
    both = settings("--config", str(path), "--default-pids-limit=-1")
    assert limit(both) == (-1, "--default-pids-limit")


def test_every_word_of_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runtime.json"
    rule = {"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    words = {
        "default-rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 1}],
        "masked-paths": ["/proc/kallsyms"],
        "seccomp": [rule],
    }
    path.write_text(json.dumps(words))
    found = defaults.of(settings("--config", str(path)))
    assert found.node is not None
    assert (found.pids_limit, found.node.origin) == (500, str(path))
    assert found.node.rlimits == (("RLIMIT_CORE", 0, 1),)
    assert (found.node.masked_paths, found.node.seccomp) == (("/proc/kallsyms",), (rule,))


@pytest.mark.parametrize(
    "content",
    [
        *('{"default-pids-limit": 0}', '{"default-pids-limit": "7"}', '{"default-pid-limit": 7}', "[]", "{"),
        *('{"masked-paths": ["proc"]}', '{"masked-paths": "/proc"}', '{"default-rlimits": [{"type": "CORE"}]}'),
        *('{"seccomp": [{"action": "SCMP_ACT_ERRNO"}]}', '{"seccomp": [{"names": ["x"]}]}', '{"seccomp": {}}'),
        '{"seccomp": [{"names": ["x"], "action": "SCMP_ACT_ERRNO", "errno": 1}]}',
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "runtime.json"
    path.write_text(content)
    with pytest.raises(InvalidArgument, match=r"runtime\.json"):
        defaults.of(settings("--config", str(path)))


INSTEAD = "is the number of another call: a rule without args that names that call holds for it"


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("connect", "32-bit programs make connect by socketcall: its arguments lie in memory, which no filter sees"),
        ("shmget", "32-bit programs make shmget by ipc: its arguments have other places there"),
        ("socketcall", f"argument 0 of socketcall {INSTEAD}"),
        ("ipc", f"argument 0 of ipc {INSTEAD}"),
    ],
)
def test_a_condition_on_arguments_that_a_filter_does_not_see_in_their_places_is_refused(
    tmp_path: Path, name: str, text: str, index: int
) -> None:
    path = tmp_path / "runtime.json"
    arguments = [{"index": index, "value": 1, "op": "SCMP_CMP_NE"}]
    path.write_text(json.dumps({"seccomp": [{"names": ["x", name], "action": "SCMP_ACT_ERRNO", "args": arguments}]}))
    with pytest.raises(InvalidArgument) as caught:
        defaults.of(settings("--config", str(path)))
    assert caught.value.text == f"{path}.seccomp[0].args: {text}"


def conditional(path: Path, action: str, op: str, value: int = 1, two: int = 0) -> None:
    argument = {"index": 1, "value": value, "valueTwo": two, "op": f"SCMP_CMP_{op}"}
    path.write_text(json.dumps({"seccomp": [{"names": ["x"], "action": f"SCMP_ACT_{action}", "args": [argument]}]}))
    defaults.of(settings("--config", str(path)))


@pytest.mark.parametrize("action", ["ERRNO", "KILL_PROCESS", "NOTIFY", "LOG", "ALLOW"])
def test_a_condition_that_the_upper_half_of_an_argument_evades_is_refused(tmp_path: Path, action: str) -> None:
    path = tmp_path / "runtime.json"
    holds, evaded = ["NE", "GT", "GE"], ["EQ", "LT", "LE"]
    if action in ("LOG", "ALLOW"):
        holds, evaded = evaded, holds
    for op in [*holds, "MASKED_EQ"]:
        conditional(path, action, op)
    for op in evaded:
        with pytest.raises(InvalidArgument) as caught:
            conditional(path, action, op)
        assert caught.value.text == (
            f"{path}.seccomp[0].args[0].op: SCMP_CMP_{op} compares 64 bits, of which the kernel reads 32 for most "
            "arguments: SCMP_CMP_MASKED_EQ with value 4294967295 and the number in valueTwo holds"
        )


def test_a_mask_is_of_32_bits_and_of_every_bit_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "runtime.json"
    with pytest.raises(InvalidArgument, match=r"args\[0\]\.value: a mask of more than 32 bits, of which the kernel"):
        conditional(path, "ERRNO", "MASKED_EQ", 1 << 32)
    for action in ("ALLOW", "LOG"):
        conditional(path, action, "MASKED_EQ", 1 << 32)
    with pytest.raises(InvalidArgument, match=r"args\[0\]\.valueTwo: a bit outside the mask, which is never found"):
        conditional(path, "ERRNO", "MASKED_EQ", 6, 8)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        defaults.of(settings("--config", str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("pids", "expected"),
    [
        (None, (77, "somebody")),
        ({"limit": 0}, (77, "somebody")),
        ({"limit": 5}, (5, "config.json")),
        ({"limit": -1}, (-1, "config.json")),
    ],
)
def test_the_bundle_goes_before_the_default(pids: object, expected: tuple[int, str]) -> None:
    options = CreateOptions("c", "/r", "/b", default_pids_limit=77, default_pids_limit_origin="somebody")
    resources = parse_resources({"pids": pids} if pids else {})
    assert prepare.effective_pids_limit(resources, options) == expected
