# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans over all steps of all knocks open nothing, in whatever order. See tests/knock_host.py for who scans whom.

Some of these sequences are what a scanner sends anyway, one port after the other. What keeps them closed is that the
ports in between set them back.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

import pytest

from tests.firewall import policy
from tests.knock_host import CLIENT_V4, SECOND_V4, STEPS, V4, V6, KnockHost, needs, ssh_knock

LOW, HIGH = 7000, 7499
"""So wide that a random order is no knock: three steps in a row come once in a million scans."""

SEQUENCES = {
    "up": "7005/tcp, 7150/tcp, 7333/tcp",
    "down": "7300/tcp, 7150/tcp, 7007/tcp",
    "udp-up": "7011/udp, 7012/udp, 7400/udp",
    "udp-down": "7401/udp, 7013/udp, 7001/udp",
    "both": "7020/tcp, 7021/udp, 7022/tcp",
    "anyhow": "7444/tcp, 7008/udp, 7222/tcp",
    "one-port": "7499/tcp, 7499/udp, 7000/tcp",
}
KNOCKS = "knocks:\n" + "".join(
    f"  {name}: {{sequence: [{steps}], opens: [{port}/tcp], within: 1m}}\n"
    for port, (name, steps) in enumerate(SEQUENCES.items(), 22)
)
ALL = policy(extra=KNOCKS)
PATIENT = policy(extra=ssh_knock(sequence="[7005/tcp, 7150/udp, 7333/tcp]", within="10m"))

SCANS = {
    "SYN upwards": ("-sS", "-r"),
    "SYN at random": ("-sS",),
    "UDP upwards": ("-sU", "-r"),
    "UDP at random": ("-sU",),
    "both upwards": ("-sS", "-sU", "-r"),
    "Xmas": ("-sX", "-r"),
    "ACK": ("-sA", "-r"),
    "FIN": ("-sF", "-r"),
    "null": ("-sN", "-r"),
}
STEPLESS = ("Xmas", "ACK", "FIN", "null")


def nmap(knock_host: KnockHost, *options: str, address: str = V4, source: str | None = None) -> None:
    """Scans the range and the ports that knocks open; all must look as if nobody was there."""
    spoofed = () if source is None else ("-S", source, "-e", "eth0")
    family = ("-6",) if ":" in address else ()
    ports = f"22-{21 + len(SEQUENCES)},{LOW}-{HIGH}"
    pace = ("-T5", "--max-retries", "0", "--min-rate", "5000", "--host-timeout", "60s")
    done = knock_host.client.run(
        needs("nmap"), "-n", "-Pn", *pace, *family, *spoofed, *options, "-p", ports, "-oG", "-", address
    )
    (told,) = (line for line in done.stdout.splitlines() if "\tPorts:" in line or "\tIgnored State:" in line)
    for state in ("open/", "closed/", "unfiltered"):
        assert state not in told, told


def nothing_opened(knock_host: KnockHost) -> bool:
    reasons = knock_host.firewall.stats()["reasons"]
    return knock_host.grants() == [] and reasons["knock.granted"]["packets"] == 0


@pytest.mark.parametrize("scan", [scan for scan in SCANS if scan not in STEPLESS])
def test_nmap_opens_nothing(knock_host: KnockHost, scan: str) -> None:
    """Twice, as the second one might begin where the first has ended."""
    knock_host.firewall.apply(ALL)
    for address in (V4, V4, V6):
        nmap(knock_host, *SCANS[scan], address=address)
    assert nothing_opened(knock_host)
    assert knock_host.firewall.reason("knock.step") > 0


def test_scans_without_a_single_step(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(ALL)
    for scan in STEPLESS:
        for address in (V4, V6):
            nmap(knock_host, *SCANS[scan], address=address)
    assert nothing_opened(knock_host)
    assert knock_host.firewall.reason("knock.step") == 0
    assert knock_host.firewall.reason("default") > 0


def ports(protocol: str) -> Iterable[str]:
    return (f"{port}/{protocol}" for port in range(HIGH, LOW - 1, -1))


@pytest.mark.parametrize("protocols", [["tcp"], ["udp"], ["tcp", "udp"], ["udp", "tcp"]], ids="-".join)
def test_scans_downwards_open_nothing(knock_host: KnockHost, protocols: list[str]) -> None:
    """By a kernel's own sockets: nmap cannot go downwards. Where there are two protocols, both at each port."""
    knock_host.firewall.apply(ALL)
    seen = knock_host.firewall.seen()
    sent = 0
    for steps in zip(*(ports(protocol) for protocol in protocols), strict=True):
        for step in steps:
            number, _, protocol = step.partition("/")
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            with knock_host.socket(V4, kind) as made:
                made.connect_ex((V4, int(number)))
                if protocol == "udp":
                    made.send(b"scan")
            sent += 1
    knock_host.firewall.wait_for_packets(seen + sent)
    assert knock_host.firewall.reason("knock.step") > 0
    assert nothing_opened(knock_host)


def test_a_list_of_nothing_but_steps_upwards_opens_an_upward_knock(knock_host: KnockHost) -> None:
    """What ``check`` warns of: a monotone sequence is as good as its ports are unknown."""
    knock_host.firewall.apply(ALL)
    knock_host.client.run(needs("nmap"), "-n", "-Pn", "-sS", "-r", "--max-retries", "0", "-p", "7005,7150,7333", V4)
    assert knock_host.opened(port=22) is True


@pytest.mark.parametrize("scan", ["SYN upwards", "UDP at random", "Xmas", "ACK"])
def test_a_knock_before_between_and_after_scans(knock_host: KnockHost, scan: str) -> None:
    """Who scans breaks his own knock, and nobody else's; he can knock as soon as he is done, and keeps his grant."""
    steps = ("7005/tcp", "7150/udp", "7333/tcp")
    knock_host.firewall.apply(PATIENT)
    nmap(knock_host, *SCANS[scan])

    knock_host.steps(*steps[:1])
    nmap(knock_host, *SCANS[scan])
    knock_host.steps(*steps[1:])
    assert not knock_host.opened()
    knock_host.steps(*steps[:2])
    nmap(knock_host, *SCANS[scan])
    knock_host.steps(*steps[2:])
    assert not knock_host.opened()

    for step in steps:
        nmap(knock_host, *SCANS[scan], source=SECOND_V4)
        knock_host.step(step)
    assert [grant["source"] for grant in knock_host.grants()] == [CLIENT_V4]
    nmap(knock_host, *SCANS[scan], source=SECOND_V4)
    assert knock_host.opened()
    assert not knock_host.opened(source=SECOND_V4)


def test_a_scan_by_the_holder_of_a_grant(knock_host: KnockHost) -> None:
    """It neither takes his grant nor gives him another one."""
    knock_host.firewall.apply(policy(extra=KNOCKS + ssh_knock(opens="[80/tcp]").removeprefix("knocks:\n")))
    knock_host.steps(*STEPS)
    for options in (("-sU",), ("-sS", "-r")):
        nmap(knock_host, *options)
    assert [grant["knock"] for grant in knock_host.grants()] == ["ssh"]
