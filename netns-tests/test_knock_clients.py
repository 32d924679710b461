# SPDX-License-Identifier: GPL-2.0-or-later
"""Real clients knock, each in its own way, at a host as tests/knock_host.py draws it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.firewall import policy
from tests.knock_host import CLIENT_V4, CLIENT_V6, CLOSE, SSH, STEPS, V4, V6, KnockHost, needs, ssh_knock
from tests.topology import wait_for

FAMILIES = {"v4": (V4, CLIENT_V4), "v6": (V6, CLIENT_V6)}
DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "knocking.md").read_text(encoding="utf-8")


@pytest.fixture(params=FAMILIES)
def address(request: pytest.FixtureRequest) -> str:
    return FAMILIES[request.param][0]


def holders(knock_host: KnockHost) -> list[tuple[str, list[str]]]:
    return [(grant["source"], grant["services"]) for grant in knock_host.grants()]


@pytest.mark.parametrize("family", FAMILIES)
def test_debians_knock(knock_host: KnockHost, family: str) -> None:
    program = needs("knock")
    address, source = FAMILIES[family]
    other = next(pair[0] for name, pair in FAMILIES.items() if name != family)
    knock_host.firewall.apply(SSH)
    assert not knock_host.opened(address)
    knock_host.client.run(program, "-d", "20", address, *(step.replace("/", ":") for step in STEPS))
    assert knock_host.opened(address)
    assert not knock_host.opened(other)
    assert holders(knock_host) == [(source, ["22/tcp"])]
    knock_host.client.run(program, "-d", "20", address, "9001:udp", "7001:tcp")
    assert not knock_host.opened(address)


def test_debians_knock_by_default_speaks_tcp(knock_host: KnockHost) -> None:
    """Without ``-d``, its packets follow each other at once."""
    program = needs("knock")
    knock_host.firewall.apply(policy(extra=ssh_knock(sequence="[7000/tcp, 9000/tcp, 8000/tcp]")))
    knock_host.client.run(program, V4, "7000", "9000", "8000")
    assert knock_host.opened()


def test_debians_knock_in_a_wrong_way(knock_host: KnockHost) -> None:
    """Swapped, in a wrong protocol, cut short."""
    program = needs("knock")
    knock_host.firewall.apply(SSH)
    for order in ("9000:udp 7000:tcp 8000:tcp", "7000:tcp 9000:tcp 8000:tcp", "7000:tcp 9000:udp"):
        knock_host.client.run(program, "-d", "20", V4, *order.split())
        assert not knock_host.opened(), order


def test_xdpfw_knock_verifies(knock_host: KnockHost, address: str) -> None:
    knock_host.firewall.apply(SSH)
    done = knock_host.xdpfw_knock(address, *STEPS, "--delay", "20ms", "--verify", "22")
    assert "22" in done.stdout
    assert knock_host.opened(address)


def test_xdpfw_knock_knocks_again(knock_host: KnockHost) -> None:
    """Its first try comes to nothing, as somebody with its address sent a wrong packet in the middle of it."""
    knock_host.firewall.apply(SSH)
    knock_host.step("7000/tcp")
    knock_host.step("9000/udp")
    assert not knock_host.opened()
    knock_host.xdpfw_knock(V4, "8000/tcp")
    assert not knock_host.opened()
    done = knock_host.xdpfw_knock(V4, *STEPS, "--delay", "20ms", "--verify", "22", "--json")
    assert '"verified": true' in done.stdout


def test_xdpfw_knock_tells_that_a_port_stays_closed(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(SSH)
    wrong = (V4, "7000/tcp", "8000/tcp", "9000/udp")
    done = knock_host.xdpfw_knock(*wrong, "--delay", "20ms", "--verify", "22", "--tries", "1", status=1)
    assert "Traceback" not in done.stderr
    assert knock_host.grants() == []


def test_echo_requests_are_steps(knock_host: KnockHost, address: str) -> None:
    """``8/icmp`` in both families, by ``ping`` and by ``xdpfw knock``."""
    knock_host.firewall.apply(policy(extra=ssh_knock(sequence="[7000/tcp, 8/icmp, 9000/udp]")))
    knock_host.xdpfw_knock(address, "7000/tcp", "8/icmp", "9000/udp", "--delay", "20ms")
    assert knock_host.opened(address)
    knock_host.steps(*CLOSE, address=address)
    assert not knock_host.opened(address)
    knock_host.step("7000/tcp", address)
    assert knock_host.client.run("ping", "-n", "-c", "1", "-W", "1", address, status=None).returncode == 1
    knock_host.step("9000/udp", address)
    assert knock_host.opened(address)


def test_the_recipes_of_the_document(knock_host: KnockHost) -> None:
    """``knock``, ``nc`` and ``nmap``, as docs/knocking.md has them."""
    programs = {name: needs(name) for name in ("knock", "nc", "nmap")}
    knock_host.firewall.apply(SSH)
    found = [block for block in re.findall(r"(?ms)^```sh\n(.*?)^```$", DOCUMENT) if "9000" in block]
    recipes = {name: block for name in programs for block in found if block.startswith(f"{name} ")}
    assert recipes.keys() == programs.keys()
    for name, recipe in recipes.items():
        assert not knock_host.opened(), name
        for line in recipe.replace("edge.example.net", V4).splitlines():
            knock_host.client.run("bash", "-c", line, status=None)
        assert knock_host.opened(), name
        knock_host.steps(*CLOSE)


def test_the_call_from_python(knock_host: KnockHost) -> None:
    knock_host.firewall.apply(SSH)
    program = (
        "from xdpfw.knock.client import knock, verify\n"
        f"target = knock({V4!r}, {STEPS!r}, delay_s=0.02)\n"
        "raise SystemExit(not verify(target, 22).answers)"
    )
    knock_host.client.run(sys.executable, "-c", program)


def test_sshd_behind_a_knock(knock_host: KnockHost, tmp_path: Path) -> None:
    """A login by ssh, which without a knock gets no answer."""
    sshd, ssh, keygen, knock = (needs(name) for name in ("sshd", "ssh", "ssh-keygen", "knock"))
    needs("unshare")
    for name in ("host", "user"):
        knock_host.client.run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name)
    configuration = tmp_path / "sshd_config"
    configuration.write_text(
        f"Port 2222\nListenAddress {V4}\nListenAddress {V6}\nHostKey {tmp_path / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path / 'user.pub'}\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\n",
        encoding="utf-8",
    )
    options = [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        f"UserKnownHostsFile={os.devnull}",
    ]
    login = (ssh, "-F", "none", "-i", tmp_path / "user", "-p", "2222", *(f"-o{option}" for option in options))
    knock_host.firewall.apply(policy(extra=ssh_knock(opens="[2222/tcp]")))
    # sshd wants a directory in /run, which a machine that does not run it lacks: it gets a /run of its own.
    start = f"mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec {sshd} -D -e -f {configuration}"
    log = (tmp_path / "sshd.log").open("w", encoding="utf-8")
    with log, knock_host.host.process("unshare", "--mount", "sh", "-c", start, stderr=log, stdout=log):
        wait_for(lambda: ":2222" in knock_host.host.run("ss", "-ltnH").stdout, "sshd to listen")
        refused = knock_host.client.run(*login, "-oConnectTimeout=1", f"root@{V4}", "true", status=255)
        assert "timed out" in refused.stderr
        for address in (V4, V6):
            assert not knock_host.opened(address, 2222)
            knock_host.client.run(knock, "-d", "20", address, *(step.replace("/", ":") for step in STEPS))
            answer = knock_host.client.run(*login, f"root@{address}", "echo it is me", status=None)
            # Some virtual machines lock root out. That is for sshd to say, which has been reached then.
            is_locked = "account is locked" in (tmp_path / "sshd.log").read_text(encoding="utf-8")
            assert answer.stdout == "it is me\n" or is_locked, answer.stderr
            knock_host.steps(*CLOSE, address=address)
            assert not knock_host.opened(address, 2222)
