"""emostream.deliver.registry.Registry: never more clients than slots, whoever comes at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emostream.deliver.registry import Full, Registry


class FakeClient:
    """Knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def fifty_at_once(act: Callable[[int], object]) -> list[object]:
    """What `act` returned, or the type of what it raised, in each of 50 threads that start together."""
    together = threading.Barrier(50)
    outcomes: list[object] = []

    def run(number: int) -> None:
        together.wait(30)
        try:
            outcomes.append(act(number))
        except Full:
            outcomes.append(Full)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcomes


def made(outcomes: list[object]) -> list[FakeClient]:
    return [client for client in outcomes if isinstance(client, FakeClient)]


def slow_client() -> FakeClient:
    time.sleep(0.01)  # widens the gap between looking for a slot and taking it
    return FakeClient()


def test_when_50_clients_register_at_once_exactly_as_many_as_there_are_slots_get_one() -> None:
    registry: Registry[FakeClient] = Registry(capacity=2)
    outcomes = fifty_at_once(lambda number: registry.add(f"http://c{number}/", slow_client))
    assert (len(made(outcomes)), outcomes.count(Full)) == (2, 48)
    assert (len(registry.clients()), registry.free_slots()) == (2, 0)


def test_when_one_client_registers_50_times_at_once_it_takes_one_slot() -> None:
    registry: Registry[FakeClient] = Registry(capacity=2)
    outcomes = fifty_at_once(lambda _: registry.add("http://c/", slow_client))
    assert (len(made(outcomes)), outcomes.count(None)) == (1, 49)
    assert registry.free_slots() == 1


def test_when_one_client_is_removed_50_times_at_once_it_is_closed_once() -> None:
    registry: Registry[FakeClient] = Registry(capacity=2)
    client = FakeClient()
    registry.add("http://c/", lambda: client)
    outcomes = fifty_at_once(lambda _: registry.remove("http://c/"))
    assert (outcomes.count(True), client.closed) == (1, 1)


def test_a_client_that_could_not_be_made_takes_no_slot() -> None:
    registry: Registry[FakeClient] = Registry(capacity=1)
    with pytest.raises(ZeroDivisionError):
        registry.add("http://c/", lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert (registry.free_slots(), registry.clients()) == (1, [])


def test_a_full_registry_names_its_capacity() -> None:
    with pytest.raises(Full, match="all 0 slots are taken"):
        Registry[FakeClient](capacity=0).add("http://c/", FakeClient)


def test_a_copy_of_the_clients_does_not_change() -> None:
    registry: Registry[FakeClient] = Registry(capacity=2)
    before = registry.clients()
    registry.add("http://c/", FakeClient)
    assert before == []


CAPACITY = 3
operations = st.tuples(
    st.sampled_from(["add", "remove", "remove it", "remove another"]), st.sampled_from("abcde").map("http://{}/".format)
)


@given(st.lists(operations, max_size=40))
def test_a_registry_behaves_like_a_dict_with_a_bound(steps: list[tuple[str, str]]) -> None:
    registry: Registry[FakeClient] = Registry(CAPACITY)
    model: dict[str, FakeClient] = {}
    removed: list[FakeClient] = []
    for operation, url in steps:
        client = FakeClient()
        if operation == "add" and url not in model and len(model) == CAPACITY:
            with pytest.raises(Full):
                registry.add(url, FakeClient)
        elif operation == "add":
            assert registry.add(url, lambda made=client: made) is (None if url in model else client)  # type: ignore[misc]
            model.setdefault(url, client)
        else:
            only = {"remove": None, "remove it": model.get(url), "remove another": client}[operation]
            expected = url in model and operation != "remove another"
            assert registry.remove(url, only) == expected
            if expected:
                removed.append(model.pop(url))
        assert registry.clients() == list(model.values())
        assert registry.free_slots() == CAPACITY - len(model)
    assert {client.closed for client in removed} <= {1}
    assert {client.closed for client in model.values()} <= {0}
