# SPDX-License-Identifier: GPL-2.0-or-later
"""10,000 rules and a set of 10,000 entries on a live interface, exact.

   sender              home
┌───────────┐      ┌───────────┐
│   eth0 ───┼──────┼─── fw0    │  XDP
└───────────┘      └───────────┘
"""

from __future__ import annotations

import ipaddress
import random

from tests import frames
from tests.firewall import policy
from tests.wire import Wire

RULES = 10_000
ENTRIES = 10_000
PACKETS = 200


def test_ten_thousand_rules(wire: Wire) -> None:
    draw = random.Random(3)
    tuples = [(draw.getrandbits(32), draw.getrandbits(32), draw.randrange(1, 65536)) for _ in range(RULES)]
    rules = (
        f"{{name: r{number}, match: {{src: {ipaddress.IPv4Address(src)}, dst: {ipaddress.IPv4Address(dst)}, "
        f"proto: udp, dport: {port}}}, action: {'pass' if number % 2 else 'drop'}}}"
        for number, (src, dst, port) in enumerate(tuples)
    )
    text = policy(*rules)
    wire.firewall.apply(text)
    hit = draw.sample(range(RULES), PACKETS)
    wire.send(
        frames.v4_frame(frames.udp(dport=dport), frames.UDP, src=src, dst=dst)
        for src, dst, port in map(tuples.__getitem__, hit)
        for dport in (port, port ^ 1)
    )
    stats = wire.firewall.stats()
    assert {rule["name"] for rule in stats["rules"] if rule["packets"] == 1} == {f"r{number}" for number in hit}
    assert stats["reasons"]["rule"]["packets"] == stats["reasons"]["default"]["packets"] == PACKETS
    assert stats["verdicts"]["pass"]["packets"] == sum(number % 2 for number in hit)


def test_a_set_of_ten_thousand_prefixes(wire: Wire) -> None:
    draw = random.Random(4)
    networks = {
        **{ipaddress.IPv4Network((draw.getrandbits(32), 24), strict=False): None for _ in range(ENTRIES // 2)},
        **{ipaddress.IPv6Network((draw.getrandbits(128), 48), strict=False): None for _ in range(ENTRIES // 2)},
    }
    path = wire.firewall.directory / "blocked.txt"
    path.write_text("".join(f"{network}\n" for network in networks), encoding="ascii")
    text = policy(
        "{name: blocked, match: {src: '@blocked'}, action: drop}",
        default="pass",
        extra=f"sets:\n  blocked: {{type: prefix, file: {path}}}\n",
    )
    wire.firewall.apply(text)
    inside = draw.sample(list(networks), PACKETS // 2)
    sources = [network[draw.randrange(network.num_addresses)] for network in inside]
    blocked = len(sources)
    sources += [ipaddress.IPv4Address(draw.getrandbits(32)) for _ in range(PACKETS // 2)]
    hits = sum(
        any(source in network for network in networks if network.version == source.version) for source in sources
    )
    assert hits >= blocked
    makers = {4: frames.v4_frame, 6: frames.v6_frame}
    wire.send(makers[source.version](frames.tcp(), src=int(source)) for source in sources)
    stats = wire.firewall.stats()
    assert stats["rules"][0]["packets"] == hits
    assert stats["reasons"]["default"]["packets"] == len(sources) - hits
