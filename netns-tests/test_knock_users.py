# SPDX-License-Identifier: GPL-2.0-or-later
"""Two users behind one address: what one does, the other has to bear, but no more than that.

alice ┐   client            host
      ├ ┌──────────┐    ┌───────────┐
bob   ┘ │  eth0 ───┼────┼─── fw0    │   both have 192.0.2.2, and ports of their own
        └──────────┘    └───────────┘
"""

from __future__ import annotations

import threading

from tests.firewall import policy
from tests.knock_host import CLIENT_V4, CLOSE, SECOND_V4, SSH, STEPS, V4, V6, KnockHost, ssh_knock
from tests.topology import wait_for

TWO_KNOCKS = policy(
    extra="knocks:\n"
    "  alice: {sequence: [7000/tcp, 9000/udp, 8000/tcp], opens: [22/tcp], within: 30s, for: 5m}\n"
    "  bob: {sequence: [7500/tcp, 9500/udp, 8500/tcp], opens: [23/tcp], within: 30s, for: 5m}\n"
)
ALICE, BOB = STEPS, ("7500/tcp", "9500/udp", "8500/tcp")


def held(knock_host: KnockHost) -> set[str]:
    return {grant["knock"] for grant in knock_host.grants()}


def test_a_wrong_knock_takes_nobody_s_grant(knock_host: KnockHost) -> None:
    """Nor does a knock that is given up, a closed port, a scan's packet, or the other one's own knock."""
    knock_host.firewall.apply(TWO_KNOCKS)
    knock_host.steps(*ALICE)
    knock_host.steps(*BOB[:2], ALICE[1], "8500/tcp")
    assert not knock_host.opened(port=23)
    assert held(knock_host) == {"alice"}
    assert knock_host.opened()
    knock_host.steps(*BOB)
    assert held(knock_host) == {"alice", "bob"}


def test_knocks_that_get_in_each_other_s_way_and_are_tried_again(knock_host: KnockHost) -> None:
    """Interleaved, each packet of one is wrong to the other: neither opens. One after the other, both do."""
    knock_host.firewall.apply(TWO_KNOCKS)
    for steps in zip(ALICE, BOB, strict=True):
        knock_host.steps(*steps)
    assert held(knock_host) == set()
    knock_host.steps(*ALICE)
    knock_host.steps(*BOB)
    assert held(knock_host) == {"alice", "bob"}


def test_the_same_knock_interleaved(knock_host: KnockHost) -> None:
    """Step by step together it opens, as nobody can tell the second packet from one that was sent again; a step
    behind, it does not, and a retry does."""
    knock_host.firewall.apply(SSH)
    knock_host.steps(*(step for step in STEPS for _ in ("alice", "bob")))
    assert knock_host.opened()
    knock_host.steps(*CLOSE)
    assert not knock_host.opened()
    knock_host.steps(STEPS[0], STEPS[1], STEPS[0], STEPS[2], STEPS[1])
    assert not knock_host.opened()
    knock_host.steps(*STEPS)
    assert knock_host.opened()


def test_neighbours_do_not_meet(knock_host: KnockHost) -> None:
    """Two addresses, their knocks interleaved and of both families; one stops half-way, one is wrong."""
    knock_host.firewall.apply(SSH)
    for step in STEPS:
        knock_host.step(step, source=CLIENT_V4)
        knock_host.step(step, source=SECOND_V4)
        knock_host.step(step if step != STEPS[1] else STEPS[0], address=V6)
    assert {grant["source"] for grant in knock_host.grants()} == {CLIENT_V4, SECOND_V4}
    assert not knock_host.opened(V6)
    assert knock_host.opened(source=CLIENT_V4)
    assert knock_host.opened(source=SECOND_V4)
    knock_host.steps(*CLOSE, source=SECOND_V4)
    assert not knock_host.opened(source=SECOND_V4)
    assert knock_host.opened(source=CLIENT_V4)


def test_a_client_that_retries_gets_in_beside_one_that_disturbs_it(knock_host: KnockHost) -> None:
    """Bob sends wrong packets until Alice is in; her client knocks until the port answers."""
    knock_host.firewall.apply(policy(extra=ssh_knock()))
    done = threading.Event()

    def disturb() -> None:
        sent = 0
        while not done.is_set() and sent < 1000:
            knock_host.client.run("nc", "-z", "-w1", V4, "24", status=1)
            sent += 1

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        wait_for(lambda: knock_host.firewall.reason("default") > 0, "Bob to begin")
        told = knock_host.xdpfw_knock(V4, *STEPS, "--delay", "5ms", "--verify", "22", "--tries", "30", "--json")
    finally:
        done.set()
        disturbing.join()
    assert '"verified": true' in told.stdout
