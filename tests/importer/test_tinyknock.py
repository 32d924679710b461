# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies of tinyknock: read as it reads them, and what becomes of each."""

from __future__ import annotations

import pytest

from xdpfw.cli.policyfile import PolicyFile
from xdpfw.compiler.lint import ALLOWANCES
from xdpfw.errors import PolicyError
from xdpfw.importer import tinyknock
from xdpfw.importer.imported import Imported
from xdpfw.policy.names import ICMP
from xdpfw.policy.source import Sources
from xdpfw.simulate import policytest
from xdpfw.simulate.decider import ReferenceDecider

FILE = "tiny.yaml"

EXAMPLE = """\
policies:
  - target: 8000
    action: open
    sequence:
      - value: 1000
        protocol: tcp
      - value: 2000
        protocol: udp
      - value: 3000
        protocol: tcp

  - target: 8000
    action: close
    sequence:
      - value: 3000
        protocol: tcp
      - value: 2000
        protocol: tcp
      - value: 1000
        protocol: tcp
"""


def policy(target: object, action: str, *steps: str) -> str:
    listed = ", ".join(f"{{value: {step.split('/')[0]}, protocol: {step.split('/')[1]}}}" for step in steps)
    return f"  - {{target: {target}, action: {action}, sequence: [{listed}]}}\n"


def convert(*policies: str, interfaces: tuple[str, ...] = ("eth0",)) -> Imported:
    text = policies[0] if policies[0].startswith("policies") else "policies:\n" + "".join(policies)
    return tinyknock.convert(text, FILE, interfaces=interfaces, grant="1h")


def loaded(imported: Imported, more: str = "") -> PolicyFile:
    return PolicyFile.from_sources("p.yaml", Sources.from_bundle({"p.yaml": imported.policy + more}))


def special(imported: Imported) -> list[str]:
    """The differences that are about single places."""
    return [str(difference) for difference in imported.differences if difference.position]


def test_its_example_becomes_a_knock() -> None:
    imported = convert(EXAMPLE)
    assert (
        imported.policy
        == """\
# Made from a policy of tinyknock by xdpfw import.
version: 1
interfaces: {eth0: {}}
default: drop
knocks:
  port-8000:
    sequence: [1000/tcp, 2000/udp, 3000/tcp]
    within: 10s
    opens: [8000/tcp, 8000/udp]
    for: 1h
    close: [3000/tcp, 2000/tcp, 1000/tcp]
rules:
  - {name: not-tcp-or-udp, except: {proto: [tcp, udp]}, action: pass}
"""
    )
    assert (imported.is_whole, special(imported)) == (True, [])
    whole = "\n".join(map(str, imported.differences))
    for word in ("1h", "IPv6", "10s", "SYN", "state", "repeated", "port 0", "reset"):
        assert word in whole


def test_the_policy_does_what_tinyknock_did() -> None:
    tests = """\
tests:
  - steps:
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:8000 S", expect: drop}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:1000 S", expect: drop}
      - {packet: "udp 198.51.100.7:1 > 203.0.113.1:2000", expect: drop}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:3000 S", expect: drop}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:8000 S", expect: pass}
      - {packet: "udp 198.51.100.7:1 > 203.0.113.1:8000", expect: pass}
      - {packet: "tcp 198.51.100.8:1 > 203.0.113.1:8000 S", expect: drop}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:8001 S", expect: drop}
      - {packet: "icmp 198.51.100.7 > 203.0.113.1 echo-request", expect: pass}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:3000 S", expect: drop}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:2000 S", expect: drop}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:1000 S", expect: drop}
      - {packet: "tcp 198.51.100.7:1 > 203.0.113.1:8000 S", expect: drop}
"""
    file = loaded(convert(EXAMPLE), tests)
    results = policytest.run(policytest.prepare(file.policy, file.sources.files), ReferenceDecider(file.policy))
    assert [result.to_json() for result in results if not result.ok] == []
    assert results


def test_numbers_and_words_are_as_c_has_them() -> None:
    (found,) = tinyknock.read("policies:\n" + policy("0x1F40", "2", "010/6", "'2000'/17", "0/icmp"), FILE)
    assert (found.target, found.action) == (8000, "open")
    assert [*map(str, found.steps)] == ["8/tcp", "2000/udp", "0/icmp"]


def test_json_is_yaml() -> None:
    text = '{"policies": [{"target": 8000, "action": "open", "sequence": [{"value": 1, "protocol": "tcp"}, ' + (
        '{"value": 2, "protocol": "udp"}]}]}'
    )
    assert [str(found) for found in tinyknock.read(text, FILE)] == ["open 8000 by 1/tcp, 2/udp"]


def test_several_ways_to_open_a_port_share_what_closes_it() -> None:
    imported = convert(
        policy(80, "open", "1/tcp", "3/tcp"),
        policy(80, "open", "3/udp", "1/udp"),
        policy(81, "open", "4/udp", "1/udp"),
        policy(80, "close", "9/tcp", "8/tcp"),
    )
    knocks = loaded(imported).policy.knocks
    assert [knock.name for knock in knocks] == ["port-80", "port-80-2", "port-81"]
    assert [knock.close is not None for knock in knocks] == [True, True, False]
    assert special(imported) == []


def test_abort_is_close() -> None:
    imported = convert(policy(80, "open", "1/tcp", "3/tcp"), policy(80, "abort", "9/tcp", "8/tcp"))
    assert "close: [9/tcp, 8/tcp]" in imported.policy
    assert special(imported) == [
        "tiny.yaml:3:5: abort 80 is close: packets are dropped, and no XDP exception is raised for them"
    ]


def test_icmp_is_a_step_at_last() -> None:
    imported = convert(policy(80, "open", "8/icmp", "3/tcp"))
    assert "sequence: [8/icmp, 3/tcp]" in imported.policy
    loaded(imported)
    assert special(imported) == [
        "tiny.yaml:2:43: 8/icmp is met by ICMP messages of this type; tinyknock never looks at one"
    ]


def test_icmp_errors_are_those_that_the_allowance_passes() -> None:
    passed = {
        kind
        for match in ALLOWANCES["icmp_errors"]
        for message in match.icmp or ()
        if message.protocol == ICMP
        for kind in range(message.type.low, message.type.high + 1)
    }
    assert passed == set(tinyknock.ICMP_ERRORS)


def test_the_same_steps_open_two_ports_here() -> None:
    imported = convert(policy(80, "open", "1/tcp", "3/tcp"), policy(81, "open", "1/tcp", "3/tcp"))
    assert len(loaded(imported).policy.knocks) == 2
    assert special(imported) == [
        "tiny.yaml:3:5: 81 is opened by 1/tcp, 3/tcp; tinyknock has the same steps at line 2, "
        "and then does only what that says"
    ]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        (
            [policy(80, "open", "1/tcp", "1/tcp")],
            "2:70: left out: open 80 by 1/tcp, 1/tcp: 1/tcp comes twice in a row, "
            "where a packet that is sent again would be both: put another between",
        ),
        (
            [policy(80, "open", *[f"{number}/tcp" for number in range(1, 18)])],
            "2:5: left out: open 80 by 1/tcp, 2/tcp, 3/tcp, 4/tcp, 5/tcp, 6/tcp, 7/tcp, 8/tcp, 9/tcp, 10/tcp, 11/tcp, "
            "12/tcp, 13/tcp, 14/tcp, 15/tcp, 16/tcp, 17/tcp: it has 17 steps, and 16 are the most",
        ),
        (
            [policy(80, "open", "0/tcp", "1/tcp")],
            "2:43: left out: open 80 by 0/tcp, 1/tcp: 0/tcp: nothing is sent to port 0; knocks need no such step here",
        ),
        (
            [policy(80, "open", "256/icmp", "1/tcp")],
            "2:43: left out: open 80 by 256/icmp, 1/tcp: 256/icmp is no type of ICMP, which goes to 255",
        ),
        (
            [policy(80, "open", "1/tcp", "11/icmp")],
            "2:70: left out: open 80 by 1/tcp, 11/icmp: 11/icmp can never be met: allow.icmp_errors passes it, "
            "and tinyknock never looks at one either",
        ),
        (
            [policy(80, "close", "2/tcp", "1/tcp")],
            "2:5: left out: close 80 by 2/tcp, 1/tcp: no sequence opens 80, so it is closed as it is",
        ),
        (
            [policy(80, "open", "1/tcp", "3/tcp"), policy(80, "close", "1/tcp", "3/tcp")],
            "3:5: left out: close 80 by 1/tcp, 3/tcp: these steps open port-80, and the same cannot close it, too",
        ),
        (
            [
                policy(80, "open", "1/tcp", "3/tcp"),
                policy(80, "close", "4/tcp", "3/tcp"),
                policy(80, "close", "5/tcp", "3/tcp"),
            ],
            "4:5: left out: close 80 by 5/tcp, 3/tcp: port-80 is closed by 4/tcp, 3/tcp already",
        ),
        (
            [policy(80, "open", "80/tcp", "3/tcp")],
            "2:5: left out: open 80 by 80/tcp, 3/tcp: 80/tcp is a step of a sequence, and so cannot be opened, too",
        ),
    ],
    ids=[
        "repeats",
        "too long",
        "port 0",
        "icmp type",
        "icmp error",
        "nothing to close",
        "same",
        "second close",
        "target is a step",
    ],
)
def test_nothing_is_left_out_silently(policies: list[str], expected: str) -> None:
    imported = convert(*policies)
    assert special(imported) == [f"tiny.yaml:{expected}"]
    assert not imported.is_whole
    assert f"\n# Left out, line {expected.partition(':')[0]}: " in imported.policy
    loaded(imported)


def test_a_port_whose_udp_is_a_step_is_opened_for_tcp() -> None:
    imported = convert(policy(80, "open", "80/udp", "3/tcp"))
    assert "opens: [80/tcp]" in imported.policy
    assert not imported.is_whole
    loaded(imported)


def test_differences_are_in_the_order_of_the_file() -> None:
    imported = convert(
        policy(80, "abort", "7/tcp", "1/tcp"),
        policy(80, "open", "8/icmp", "1/tcp"),
        policy(81, "open", "1/tcp", "1/tcp"),
    )
    assert [difference.position.line for difference in imported.differences if difference.position] == [2, 3, 4]


def test_interfaces_are_quoted_where_it_takes_that() -> None:
    imported = convert(EXAMPLE, interfaces=("eth0", "ens3.100", "null", "a,b"))
    assert 'interfaces: {eth0: {}, ens3.100: {}, "null": {}, "a,b": {}}' in imported.policy
    assert [interface.name for interface in loaded(imported).policy.interfaces] == ["eth0", "ens3.100", "null", "a,b"]


STEPS = "sequence: [{value: 1, protocol: tcp}, {value: 2, protocol: tcp}]"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ['tiny.yaml:1:1: the policy is empty (one of tinyknock begins with "policies:")']),
        (
            "- a\n",
            ['tiny.yaml:1:1: a policy is a mapping of keys to values (one of tinyknock begins with "policies:")'],
        ),
        (
            "rules: []\n",
            [
                "tiny.yaml:1:1: 'rules' is no key of tinyknock (there are policies)",
                "tiny.yaml:1:1: policies is missing (tinyknock needs all of its keys)",
            ],
        ),
        ("policies: {}\n", ["tiny.yaml:1:11: policies is no list (each of its items is a policy)"]),
        ("policies: []\n", ["tiny.yaml:1:11: policies has 0 of 1 or more (tinyknock refuses it)"]),
        (
            "policies: [5]\n",
            ["tiny.yaml:1:12: 5 stands where a mapping belongs (with target, action, sequence)"],
        ),
        (
            f"policies:\n  - {{target: 99999, action: allow, {STEPS}}}\n",
            [
                "tiny.yaml:2:14: target 99999 is no port (a number from 1 to 65535)",
                "tiny.yaml:2:29: action 'allow' is none of abort, close, open",
            ],
        ),
        (
            f"policies:\n  - {{target: 089, action: open, {STEPS}, name: x}}\n",
            [
                "tiny.yaml:2:99: 'name' is no key of tinyknock (there are target, action, sequence)",
                "tiny.yaml:2:14: target '089' is no port (a number from 1 to 65535)",
            ],
        ),
        (
            "policies:\n  - {target: 80, action: open, sequence: [{value: 1, protocol: tcp}]}\n",
            ["tiny.yaml:2:42: sequence has 1 of 2 or more (tinyknock refuses it)"],
        ),
        (
            "policies:\n  - {target: 80, action: open, sequence: [{value: -1, protocol: tcp}, {protocol: sctp}]}\n",
            [
                "tiny.yaml:2:51: value '-1' is no port (a number from 0 to 65535)",
                "tiny.yaml:2:71: value is missing (tinyknock needs all of its keys)",
            ],
        ),
        (
            "policies:\n  - {target: 80, action: open, sequence: [{value: 1, protocol: sctp}, 7]}\n",
            [
                "tiny.yaml:2:64: protocol 'sctp' is none of icmp, tcp, udp",
                "tiny.yaml:2:71: 7 stands where a mapping belongs (with value, protocol)",
            ],
        ),
        ("policies: [\n", None),
    ],
)
def test_what_tinyknock_would_not_read_is_told_with_its_place(text: str, messages: list[str] | None) -> None:
    with pytest.raises(PolicyError) as caught:
        convert(text) if text.startswith("policies") else tinyknock.read(text, FILE)
    found = [str(error) for error in (caught.value, *caught.value.others)]
    assert found == messages if messages else found[0].startswith("tiny.yaml:2:1: this is no valid YAML")
