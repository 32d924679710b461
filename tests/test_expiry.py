# SPDX-License-Identifier: GPL-2.0-or-later
"""When grants end by themselves, against a list that is searched from end to end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xdpfw.observe.expiry import WHOLE, Expired, Expiry, Holder

ALICE = Holder(1, 0xC6336407, 32, 7)
BOB = Holder(1, 0xC6336408, 32, 7)


def drain(expiry: Expiry) -> list[Expired]:
    found = []
    while expiry.next() is not None:
        found.append(expiry.take())
    return found


def test_grants_end_in_order_of_their_ends() -> None:
    expiry = Expiry()
    expiry.grant(ALICE, ["22/tcp", WHOLE], 20)
    expiry.grant(BOB, ["22/tcp", WHOLE], 10)
    assert expiry.next() == 10
    assert drain(expiry) == [(10, BOB, ("22/tcp", WHOLE)), (20, ALICE, ("22/tcp", WHOLE))]


def test_a_renewal_extends_and_a_shorter_one_changes_nothing() -> None:
    expiry = Expiry()
    assert expiry.grant(ALICE, ["22/tcp", WHOLE], 10) == 10
    assert expiry.grant(ALICE, ["22/tcp", WHOLE], 30) == 30
    assert expiry.grant(ALICE, ["22/tcp", WHOLE], 20) == 30
    assert drain(expiry) == [(30, ALICE, ("22/tcp", WHOLE))]


def test_services_end_one_by_one() -> None:
    expiry = Expiry()
    expiry.grant(ALICE, ["22/tcp", "80/tcp", WHOLE], 10)
    expiry.grant(ALICE, ["80/tcp", WHOLE], 20)
    assert drain(expiry) == [(10, ALICE, ("22/tcp",)), (20, ALICE, ("80/tcp", WHOLE))]


def test_what_was_ended_does_not_run_out() -> None:
    expiry = Expiry()
    expiry.grant(ALICE, ["22/tcp", "80/tcp", WHOLE], 10)
    expiry.grant(BOB, ["22/tcp", WHOLE], 10)
    expiry.end(ALICE, "22/tcp")
    expiry.end(BOB)
    expiry.end(BOB, "22/tcp")  # twice is harmless
    assert drain(expiry) == [(10, ALICE, ("80/tcp", WHOLE))]
    expiry.end(ALICE)
    assert expiry.next() is None


def test_a_holder_may_come_back() -> None:
    expiry = Expiry()
    expiry.grant(ALICE, [WHOLE], 10)
    expiry.end(ALICE)
    expiry.grant(ALICE, [WHOLE], 5)
    assert expiry.knows(ALICE, WHOLE)
    assert drain(expiry) == [(5, ALICE, (WHOLE,))]
    assert not expiry.knows(ALICE, WHOLE)


SERVICES = st.sets(st.sampled_from(["22/tcp", "80/tcp"]))
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.sampled_from([ALICE, BOB]), SERVICES, st.integers(1, 9)),
        st.tuples(st.just("end"), st.sampled_from([ALICE, BOB]), st.sampled_from(["22/tcp", "80/tcp", WHOLE])),
        st.just(("take",)),
    ),
    max_size=30,
)


@given(CHANGES)
def test_it_agrees_with_a_plain_table(changes: list[tuple[object, ...]]) -> None:
    expiry, table = Expiry(), dict[tuple[Holder, str], int]()
    for change in changes:
        match change:
            case ("grant", Holder() as holder, set() as services, int() as until_ns):
                named = [*sorted(map(str, services)), WHOLE]
                for service in named:
                    table[holder, service] = max(table.get((holder, service), 0), until_ns)
                assert expiry.grant(holder, named, until_ns) == min(table[holder, service] for service in named)
            case ("end", Holder() as holder, str() as service):
                for key in list(table):
                    if key[0] == holder and service in (WHOLE, key[1]):
                        del table[key]
                expiry.end(holder, service)
            case ("take",) if table:
                at_ns, holder, services = expiry.take() if expiry.next() is not None else (0, ALICE, ())
                assert at_ns == min(table.values())
                assert set(services) == {key[1] for key, until in table.items() if key[0] == holder and until == at_ns}
                for service in services:
                    del table[holder, service]
        assert expiry.next() == min(table.values(), default=None)
