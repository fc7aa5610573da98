"""Policies in their process, and what they make of a configuration; the examples of docs/policies.md."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from corten.core.asker import Asker
from corten.engine import effective, policyvalues
from corten.engine.effective import Effective
from corten.engine.explaining import explain, of_policies
from corten.engine.host import Host
from corten.engine.policies import Function, Policies
from corten.engine.policyfiles import PolicyFile
from corten.engine.settings import Settings
from corten.engine.update import updated
from corten.errors import CortenError, Internal, InvalidArgument, PermissionDenied
from corten.spec.docker import ContainerUpdateRequest
from corten.spec.docker_parse import parse_create
from corten.spec.image import RunConfig
from support import paths

from .conftest import ID

Json = dict[str, Any]

HEAD = "from corten.policy import create, Refused\n@create\ndef f(c):\n"
FUNCTION = Function(0, "/p.py", "f", 2)
EXAMPLES = re.findall(r"```python\n(.*?)```", (paths.REPOSITORY / "docs/policies.md").read_text(), re.DOTALL)


def mount(kind: str, source: str) -> Json:
    return {"Type": kind, "Source": source, "Target": "/mounted"}


def asked(text: str, use: Callable[[Policies], Awaitable[Any]], limit_s: float = 60.0) -> Any:
    """What `use` makes of the policies of one file."""

    async def run() -> Any:
        policies = Policies([PolicyFile("/p.py", text)], limit_s=limit_s)
        try:
            await policies.load()
            return await use(policies)
        finally:
            policies.close()

    return asyncio.run(run())


def answer(body: str, view: Json | None = None, limit_s: float = 60.0) -> Any:
    """Of one function."""
    shown = view or {"verb": "create", "name": "", "image": "", "image_id": "", "config": {}, "host": {}}
    return asked(HEAD + body, lambda policies: policies.ask(policies.functions[0], shown), limit_s)


def refused(kind: type[CortenError], body: str, limit_s: float = 60.0) -> str:
    with pytest.raises(kind) as caught:
        answer(body, limit_s=limit_s)
    return caught.value.text


def test_a_function_answers_with_what_it_sets() -> None:
    assert answer("  return {'PidsLimit': 3}") == {"PidsLimit": 3}
    assert answer("  print('for the log')") == {}


def test_a_refusal_names_function_and_reason_in_one_line() -> None:
    said = refused(PermissionDenied, "  raise Refused('not\\nhere')")
    assert said == "authorization denied by policy /p.py:f: not\\nhere"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("  x = 1\n  return 1 / 0", "failed at line 5: ZeroDivisionError: division by zero"),
        ("  return [1]", "failed at line 2: returned a list, not a dict or None"),
        ("  return {'Env': object()}", "failed at line 2: TypeError: Object of type object is not JSON serializable"),
        ("  raise ValueError('\\udc80')", "failed at line 4: ValueError: ?"),
        ("  raise SystemExit(3)", "failed at line 4: SystemExit: 3"),
        ("  return {'Labels': {'a': 'b' * (2 << 20)}}", "failed at line 2: returned too much"),
        ("  import os; os._exit(0)", "failed at line 2: no answer: its process was ended"),
        ("  import aiohttp", "failed at line 4: ModuleNotFoundError: No module named 'aiohttp'"),
        ("  x = bytearray(2 << 30)", "failed at line 4: MemoryError"),
    ],
)
def test_a_function_that_fails_is_told_with_its_line(body: str, text: str) -> None:
    assert refused(Internal, body) == f"policy /p.py:f {text}"  # line 2: where it begins, with its decorator


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("  return {'Lifetime': float('nan')}", "failed at line 2: ValueError: Out of range float values"),
        ("  return {'Labels': {'a': '\\udc80'}}", "failed at line 2: UnicodeEncodeError: 'utf-8' codec"),
        ("  return {'Labels': {'\\udc80': 'a'}}", "failed at line 2: UnicodeEncodeError: 'utf-8' codec"),
    ],
)
def test_what_is_no_json_is_told_as_the_functions_fault(body: str, text: str) -> None:
    assert refused(Internal, body).startswith(f"policy /p.py:f {text}")


def test_a_function_that_catches_everything_is_ended_when_it_hangs() -> None:
    hang = "  while True:\n    try:\n      import time; time.sleep(99)\n    except BaseException: pass"
    assert refused(Internal, hang, limit_s=3) == "policy /p.py:f failed at line 6: took longer than 3 s"


def test_the_next_question_after_a_hung_one_is_answered() -> None:
    text = HEAD + "  import os\n  if c.name == 'odd': os._exit(0)\n  return {'PidsLimit': 3}"
    view = {"verb": "create", "name": "odd", "image": "", "image_id": "", "config": {}, "host": {}}

    async def use(policies: Policies) -> Json:
        with pytest.raises(Internal):
            await policies.ask(policies.functions[0], view)
        return await policies.ask(policies.functions[0], {**view, "name": "even"})

    assert asked(text, use) == {"PidsLimit": 3}


def test_who_asks_already_is_answered_after_the_end() -> None:
    """As at a reload: the old ones are closed while somebody waits for them."""
    view = {"verb": "create", "name": "", "image": "", "image_id": "", "config": {}, "host": {}}

    async def use(policies: Policies) -> list[Json]:
        first, second = (asyncio.create_task(policies.ask(policies.functions[0], view)) for _ in range(2))
        await asyncio.sleep(0)
        policies.close()
        return [await first, await second]

    assert asked(HEAD + "  return {'PidsLimit': 3}", use) == [{"PidsLimit": 3}] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "/p.py: line 1: SyntaxError: "),
        ("x = 1\ny = nothing\n", "/p.py: line 2: NameError: name 'nothing' is not defined"),
        ("def f(c): pass\n", "/p.py: no function in it is marked as a policy"),
        ("import os; os._exit(1)", "no answer of the process that loads policies"),
    ],
)
def test_a_file_that_does_not_load_is_told_by_name(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        asked(text, lambda policies: asyncio.sleep(0))
    assert caught.value.text.startswith(said)


def test_functions_are_asked_in_the_order_of_the_file_and_imported_ones_are_not() -> None:
    text = "from corten.policy import create\n@create\ndef b(c): pass\ndef no(c): pass\n@create\ndef a(c): pass\n"

    async def names(policies: Policies) -> list[str]:
        return [one.name for one in policies.functions]

    assert asked(text, names) == ["b", "a"]


def test_they_see_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example")
    assert "HTTPS_PROXY" not in answer("  import os; return {'Env': list(os.environ)}")["Env"]


# Values


def decided(host: Json, config: Json, machine: Host, values: list[Json]) -> Effective:
    """A request after policies that set `values`, one each."""
    request = parse_create(msgspec.json.encode({"Image": "web", "Cmd": ["x"], **config, "HostConfig": host}))

    def now() -> Effective:
        return effective.decide(
            request, RunConfig(labels={"i": "1"}), Settings(data_root="/d", exec_root="/e"), machine, container_id=ID
        )[0]

    told = now()
    for index, one in enumerate(values):
        function = Function(index, "/p.py", f"f{index}", 2)
        request = policyvalues.in_create(request, policyvalues.checked(one, function), function)
        told = policyvalues.told(policyvalues.carried(now(), told), told, one, function)
    return told


def test_a_value_has_its_origin_and_keeps_what_was_asked(machine: Host) -> None:
    made = decided({"Memory": 1 << 33}, {}, machine, [{"Memory": 1 << 29}, {"PidsLimit": 7}])
    rows = {row["field"]: row for row in explain(made)}
    memory = rows["HostConfig.Memory"]
    assert (memory["value"], memory["origin"]) == (1 << 29, "policy /p.py:f0")
    assert memory["asked"] == {"value": 1 << 33, "origin": "flag"}
    assert (rows["HostConfig.MemorySwap"]["value"], rows["HostConfig.MemorySwap"]["origin"]) == (1 << 30, "built-in")
    assert rows["HostConfig.PidsLimit"]["asked"] == {"value": 500, "origin": "built-in"}
    assert rows["HostConfig.PidsLimit"]["origin"] == "policy /p.py:f1"


def test_of_two_policies_the_last_has_the_value_and_the_client_is_what_was_asked(machine: Host) -> None:
    made = decided({"PidsLimit": 9}, {}, machine, [{"PidsLimit": 8}, {"PidsLimit": 7}])
    assert (made.pids_limit, made.origins["HostConfig.PidsLimit"]) == (7, "policy /p.py:f1")
    assert of_policies(made)["Asked"] == {"HostConfig.PidsLimit": {"Value": 9, "Origin": "flag"}}


def test_labels_and_environment_are_added(machine: Host) -> None:
    config = {"Env": ["A=1", "B=2"], "Labels": {"a": "1"}}
    made = decided({}, config, machine, [{"Env": ["B=3"], "Labels": {"p": "1"}}])
    assert made.config.env == ["A=1", "B=3"]
    assert made.config.labels == {"i": "1", "a": "1", "p": "1"}
    assert made.origins["Config.Labels"] == "flag, image, policy /p.py:f0"


def test_what_a_policy_turns_off_is_shown_with_what_was_asked(machine: Host) -> None:
    made = decided({"ReadonlyRootfs": True}, {}, machine, [{"ReadonlyRootfs": False}])
    (row,) = [row for row in explain(made) if row["field"] == "HostConfig.ReadonlyRootfs"]
    assert row["asked"] == {"value": True, "origin": "flag"}
    assert not made.host.readonly_rootfs


def test_the_shortest_lifetime_counts(machine: Host) -> None:
    made = decided({}, {}, machine, [{"Lifetime": 9}, {"Lifetime": 5, "LifetimeReason": "a\nb"}, {"Lifetime": 7}])
    assert of_policies(made)["Lifetime"] == {"Seconds": 5.0, "Policy": "policy /p.py:f1", "Reason": "a\\nb"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"Image": "x"}, "Image is nothing that a policy can set"),
        ({"Privileged": True}, "Privileged is nothing that a policy can set"),
        ({"Binds": ["/:/host"]}, "Binds is nothing that a policy can set"),
        ({"RestartPolicy": {"Nme": "x"}}, "RestartPolicy.Nme is nothing that a policy can set"),
        ({"Memory": None}, "Memory has no value"),
        ({"Memory": "1g"}, "invalid JSON: json: cannot unmarshal string into Go struct field"),
        ({"Env": ["A"]}, "Env: not a list of NAME=VALUE"),
        ({"Lifetime": 0}, "Lifetime: not a number of seconds above 0"),
        ({"Lifetime": True}, "Lifetime: not a number of seconds above 0"),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_function(values: Json, text: str) -> None:
    with pytest.raises(Internal) as caught:
        policyvalues.checked(values, FUNCTION)
    assert caught.value.text.startswith("policy /p.py:f failed at line 2: ")
    assert text in caught.value.text


def test_an_update_takes_what_it_can_change_and_nothing_else(machine: Host) -> None:
    before = decided({"PidsLimit": 9, "Memory": 1 << 29}, {}, machine, [])
    request = ContainerUpdateRequest(pids_limit=-1)
    values = {"PidsLimit": 50, "Memory": 1 << 29, "CapDrop": ["ALL"], "Lifetime": 3}
    now = updated(before, request, machine)
    request, counts = policyvalues.in_update(request, values, FUNCTION, now)
    assert counts == {"PidsLimit": 50}  # the rest is so already, or is no update's
    made = policyvalues.told(updated(before, request, machine), now, counts, FUNCTION)
    assert (made.pids_limit, made.origins["HostConfig.PidsLimit"]) == (50, "policy /p.py:f")
    assert of_policies(made) == {"Asked": {"HostConfig.PidsLimit": {"Value": -1, "Origin": "update"}}}


# The examples


@pytest.fixture
def example(machine: Host) -> Callable[[int, Json, Json], Json]:
    """What the functions of an example set or say, by name."""

    def ask(index: int, host: Json, config: Json) -> Json:
        shown = decided(host, config, machine, [])
        client = Asker(by="client")
        view = policyvalues.view(shown, verb="create", name="n", image_id="", machine=machine, client=client)

        async def use(policies: Policies) -> Json:
            out: Json = {}
            for function in policies.functions:
                try:
                    out[function.name] = policyvalues.checked(await policies.ask(function, view), function)
                except PermissionDenied as error:
                    out[function.name] = error.text.rpartition(": ")[2]
            return out

        return asked(EXAMPLES[index], use)  # type: ignore[no-any-return]

    return ask


@pytest.mark.parametrize(
    ("index", "host", "config", "expected"),
    [
        (0, {}, {}, {"memory": {"Memory": 512 << 20, "MemorySwap": 512 << 20}}),
        (0, {"Memory": 512 << 20}, {}, {"memory": {}}),
        (0, {"Memory": 512 << 20, "MemorySwap": -1}, {}, {"memory": {"MemorySwap": 512 << 20}}),
        (1, {"Binds": ["/run/x.sock:/s"]}, {}, {"no_way_out": "of the host's files only those below /srv"}),
        (1, {"Binds": ["/srv/../run:/s"]}, {}, {"no_way_out": "of the host's files only those below /srv"}),
        (1, {"Mounts": [mount("bind", "/")]}, {}, {"no_way_out": "of the host's files only those below /srv"}),
        (1, {"Mounts": [mount("volume", "other")], "Binds": ["/srv/x:/y", "volume:/s"]}, {}, {"no_way_out": {}}),
        (1, {"CapDrop": ["MKNOD"]}, {}, {"fewer_capabilities": {"CapDrop": ["MKNOD", "NET_RAW"]}, "no_way_out": {}}),
        (2, {"PidsLimit": 9}, {"Labels": {"kind": "job"}}, {"processes": {}, "jobs": {"Lifetime": 3600}}),
        (2, {}, {}, {"processes": {"PidsLimit": 200}, "jobs": {}}),
    ],
)
def test_the_examples_do_what_they_say(
    example: Callable[[int, Json, Json], Json], index: int, host: Json, config: Json, expected: Json
) -> None:
    found = example(index, host, config)
    for name, values in expected.items():
        if isinstance(values, dict) and values:
            assert found[name].items() >= values.items()
        else:
            assert found[name] == values


def test_every_example_is_run() -> None:
    assert len(EXAMPLES) == 3
