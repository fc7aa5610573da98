"""Container records: lookups, names, texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.containers import ContainerRecord, ContainerStore
from corten.core.metadata import Database
from corten.errors import AlreadyExists, Conflict, InvalidArgument, NotFound

A, B = "a" * 64, "ab" + "b" * 62


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ContainerStore]:
    database = Database(str(tmp_path / "db"))
    yield ContainerStore(database)
    database.close()


def test_a_record_comes_back_as_it_was(store: ContainerStore) -> None:
    record = store.create(
        ContainerRecord(id=A, name="one", image="sha256:x", labels={"k": "v"}, spec=b"\0spec", engine=b'{"a":1}')
    )
    assert record.created_ns > 0
    assert store.get(A) == store.find("one") == store.find("/one") == store.find("aa") == record
    assert list(store.list()) == [record]


def test_names_and_prefixes_are_told_apart_in_dockers_words(store: ContainerStore) -> None:
    store.create(ContainerRecord(id=A, name="b"))
    store.create(ContainerRecord(id=B, name="aa"))
    assert store.find("aa").id == B
    assert store.find("aaa").id == A
    assert store.find(A).id == A
    with pytest.raises(InvalidArgument, match=r"^multiple IDs found with provided prefix: a$"):
        store.find("a")
    for missing in ("zz", "", "/", "A", "%", "a_", B + "b"):
        with pytest.raises(NotFound, match=f"^No such container: {missing}$"):
            store.find(missing)


def test_a_name_is_taken_once_in_a_tenant(store: ContainerStore) -> None:
    store.create(ContainerRecord(id=A, name="n"))
    text = (
        f'Conflict. The container name "/n" is already in use by container "{A}". You have to remove (or rename)'
        " that container to be able to reuse that name."
    )
    with pytest.raises(Conflict) as raised:
        store.create(ContainerRecord(id=B, name="n"))
    assert str(raised.value) == text
    store.create(ContainerRecord(id=B, name="n", tenant="k8s.io"))
    store.create(ContainerRecord(id=B, name="other"))
    with pytest.raises(Conflict):
        store.update(ContainerRecord(id=B, name="n"))
    assert store.find("other").id == B
    assert store.tenants() == ["k8s.io", "moby"]


def test_containers_without_a_name_do_not_meet(store: ContainerStore) -> None:
    store.create(ContainerRecord(id=A))
    store.create(ContainerRecord(id=B))
    assert {record.id for record in store.list()} == {A, B}


def test_an_update_keeps_what_a_container_is(store: ContainerStore) -> None:
    record = store.create(ContainerRecord(id=A, name="n", engine=b"1"))
    store.update(ContainerRecord(id=A, name="m", engine=b"2", created_ns=5))
    changed = store.get(A)
    assert (changed.name, changed.engine, changed.created_ns) == ("m", b"2", record.created_ns)
    with pytest.raises(NotFound):
        store.update(ContainerRecord(id=B))


def test_an_id_is_taken_once_and_free_after_removal(store: ContainerStore) -> None:
    store.create(ContainerRecord(id=A, name="n"))
    with pytest.raises(AlreadyExists, match="already exists"):
        store.create(ContainerRecord(id=A))
    store.delete(A)
    with pytest.raises(NotFound, match="No such container"):
        store.delete(A)
    store.create(ContainerRecord(id=A, name="n"))
