# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever packets leave behind, all of it at once: flows, first fragments, tokens, members of sets, bans, cookies.

Kernel and reference decide alike on every packet, and at the end have the same counters, events, members and flows.
``pytest --hypothesis-profile=thorough`` draws many more, and others each time.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.flow_frames import ACK, FIN, RST, SYN, V4, V6
from tests.kernel.agreement import agreement
from tests.kernel.test_fragments_followed import EDGE, first, later
from tests.policies import NOTHING_ALLOWED, one, policy
from xdpfw.compiler import ir

pytestmark = pytest.mark.needs("privileges", "data plane")

S = 1_000_000_000
ENDS = (
    V4._replace(here_port=22),
    V4._replace(here_port=53),
    V4._replace(there=V4.there + 1, here_port=22),
    V6._replace(here_port=22),
)
SETS = (ir.DynamicSet("few", 2), ir.DynamicSet("short", 1024, timeout_ns=5 * S))
NEVER = ir.AddressRanges(v4=one(V4.there + 1), dynamic=("short",))
PROTECTED = one(22)

LIMITS = (
    ir.Limit(1, S, 1),
    ir.Limit(5, 60 * S, 2, ir.Per.SRC, 24, 64),
    ir.Limit(5, 60 * S, 3, ir.Per.SRC, exceed=ir.Verdict.PASS),
    ir.Limit(1000, S, 1, ir.Per.FLOW),
    ir.Limit(300, S, 600, bytes=True),
)
ACTIONS = (
    *[ir.Action(ir.ActionKind.PASS)] * 4,
    ir.Action(ir.ActionKind.DROP),
    ir.Action(ir.ActionKind.TX),
    ir.Action(ir.ActionKind.REDIRECT, "b"),
)
CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    "proto": st.sampled_from((one(6), one(17), one(1), one(6, 17))),
    "dport": st.sampled_from((one(22), one(53), one(1, 100))),
    "fragment": st.sampled_from((one(0), one(1), one(2), one(1, 2))),
    "state": st.sampled_from((one(0), one(1))),
    "src": st.sampled_from([ir.AddressRanges(dynamic=(name,)) for name in ("few", "short", ir.BANS)]),
}
FLAGS = (SYN, SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST)
WAITS = (1, S // 5, S // 5, S, S, 5 * S, 29 * S, 30 * S, 120 * S)
BANNED = ("198.51.100.7/32", "198.51.100.0/24", "2001:db8::/64")
PACKETS = 400


@st.composite
def rules(draw: st.DrawFn, name: str) -> ir.Rule:
    wanted = draw(st.lists(st.sampled_from(list(CONDITIONS)), max_size=2, unique=True))
    match = ir.Match(**{field: draw(CONDITIONS[field]) for field in wanted})
    if draw(st.integers(0, 7)) == 0:
        return ir.Rule(name, match, ir.Action(ir.ActionKind.COUNT))
    limit = draw(st.sampled_from((*LIMITS, None, None)))
    add_to = draw(
        st.none()
        | st.builds(
            ir.AddTo,
            st.sampled_from(("few", "few", "short", "short", ir.BANS)),
            st.sampled_from((S, 3 * S, 20 * S, None)),
            st.booleans() if limit else st.just(False),
        )
    )
    return ir.Rule(name, match, draw(st.sampled_from(ACTIONS)), None, limit, add_to, draw(st.sampled_from((0, 0, 1))))


@st.composite
def policies(draw: st.DrawFn) -> ir.Policy:
    drawn = [draw(rules(f"r{number}")) for number in range(draw(st.integers(1, 6)))]
    established, fragments = (draw(st.sampled_from((True, True, False))) for _ in range(2))
    allow = replace(NOTHING_ALLOWED, established=established, fragments=fragments)
    return replace(
        policy(*drawn, default=draw(st.sampled_from((ir.Verdict.DROP, ir.Verdict.PASS))), allow=allow),
        dynamic_sets=SETS,
        never_ban=draw(st.sampled_from((None, NEVER))),
        protect_syn=draw(st.sampled_from(((), PROTECTED))),
    )


def _received(random: Random) -> bytes:
    ends = random.choice(ENDS)
    proto = random.choice(("tcp", "tcp", "udp", "sctp", "echo"))
    if random.random() < 0.4:
        make, v6 = random.choice((first, later, later)), ends.family is ir.Family.IPV6
        port = {"dport": random.choice((22, 53))} if make is first else {"at": random.choice((EDGE, EDGE, 8))}
        return make(v6=v6, number=random.choice((1, 2, 3)), src=ends.there, **port)
    if proto == "echo":
        return ends.echo_received(is_reply=random.random() < 0.5)
    return ends.received(proto, random.choice(FLAGS), seq=random.choice((0, 1)), ack=random.choice((0, 1, 2)))


def _sent(random: Random) -> bytes:
    ends = random.choice(ENDS)
    if random.random() < 0.2:
        return ends.echo_sent(is_reply=random.random() < 0.5)
    return ends.sent(random.choice(("tcp", "udp")), random.choice(FLAGS), seq=random.choice((0, 1)))


@settings(max_examples=settings().max_examples // 5, deadline=None, suppress_health_check=list(HealthCheck),
          phases=(Phase.generate,))  # fmt: skip
@given(policies(), st.integers(0, (1 << 32) - 1))
def test_kernel_and_reference_remember_the_same(drawn: ir.Policy, seed: int) -> None:
    """Loading takes time: so each policy meets many packets, too many to be drawn and shrunk one by one."""
    random = Random(seed)
    with agreement(drawn) as both:
        for _ in range(PACKETS):
            what = random.random()
            if what < 0.15:
                both.send(_sent(random))
            elif what < 0.20:
                both.wait(random.choice(WAITS))
            elif what < 0.205:
                both.put(ir.BANS, random.choice(BANNED), until_ns=both.now.boot_ns + 2 * S)
            else:
                both.run(_received(random))
