# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xdpfw.knock.steps import ICMP, ICMPV6, TCP, UDP, Step, StepError, parse_step

PORTS = st.integers(1, 65535)
BYTES = st.integers(0, 255)
STEPS = st.one_of(
    st.builds(Step, st.sampled_from([TCP, UDP]), PORTS, st.none()),
    st.builds(Step, st.sampled_from([ICMP, ICMPV6]), BYTES, st.none() | BYTES),
)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("7000/tcp", Step(6, 7000)),
        ("1/udp", Step(17, 1)),
        ("65535/udp", Step(17, 65535)),
        ("8/icmp", Step(1, 8)),
        ("0/icmp", Step(1, 0)),
        ("3.1/icmp", Step(1, 3, 1)),
        ("255.255/icmpv6", Step(58, 255, 255)),
        ("128.0/icmpv6", Step(58, 128, 0)),
    ],
)
def test_steps_are_read(text: str, step: Step) -> None:
    assert parse_step(text) == step
    assert str(step) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a step (write a step as 7000/tcp, 9000/udp or 8/icmp)"),
        ("7000", "7000 has no protocol (write 7000/tcp or 7000/udp)"),
        ("7000:udp", "7000:udp is not a step (write 7000/udp)"),
        ("7000:tpc", "7000:tpc is not a step (write a step as 7000/tcp, 9000/udp or 8/icmp)"),
        ("tcp/7000", "tcp/7000 is not a step (write 7000/tcp)"),
        ("7000/TCP", "7000/TCP has no protocol that a step can be of (write 7000/tcp)"),
        (
            "7000/sctp",
            "7000/sctp has no protocol that a step can be of (the protocols of steps are tcp, udp, icmp, icmpv6)",
        ),
        ("7000/", "7000/ has no protocol that a step can be of (the protocols of steps are tcp, udp, icmp, icmpv6)"),
        ("/tcp", "/tcp has no port (a port is a number from 1 to 65535)"),
        ("0/tcp", "0/tcp has port 0, which is below 1"),
        ("65536/udp", "65536/udp has port 65536, which is above 65535"),
        ("ssh/tcp", "ssh/tcp has ssh where its port belongs (a port is a number from 1 to 65535)"),
        ("-1/tcp", "-1/tcp has -1 where its port belongs (a port is a number from 1 to 65535)"),
        ("0x10/tcp", "0x10/tcp has 0x10 where its port belongs (a port is a number from 1 to 65535)"),
        ("07/tcp", "07/tcp has 07 where its port belongs (a port is a number from 1 to 65535)"),
        ("7000.1/tcp", "7000.1/tcp has 7000.1 where its port belongs (a port is a number from 1 to 65535)"),
        ("٣/tcp", r"'\u0663/tcp' has '\u0663' where its port belongs (a port is a number from 1 to 65535)"),
        ("7 /tcp", "'7 /tcp' has '7 ' where its port belongs (a port is a number from 1 to 65535)"),
        (
            "7/tcp\n",
            r"'7/tcp\n' has no protocol that a step can be of (the protocols of steps are tcp, udp, icmp, icmpv6)",
        ),
        ("256/icmp", "256/icmp has type 256, which is above 255"),
        ("8./icmp", "8./icmp has no code (a code is a number from 0 to 255)"),
        (".0/icmp", ".0/icmp has no type (a type is a number from 0 to 255)"),
        ("8.256/icmpv6", "8.256/icmpv6 has code 256, which is above 255"),
        ("8.0.0/icmp", "8.0.0/icmp has 0.0 where its code belongs (a code is a number from 0 to 255)"),
        (
            "9" * 99 + "/tcp",
            f"{'9' * 37}... has {'9' * 37}... where its port belongs (a port is a number from 1 to 65535)",
        ),
    ],
)
def test_what_is_no_step_is_told_how_to_write_it(text: str, message: str) -> None:
    with pytest.raises(StepError) as caught:
        parse_step(text)
    assert str(caught.value) == message


@given(STEPS)
def test_a_step_is_read_as_it_is_written(step: Step) -> None:
    assert parse_step(str(step)) == step


@given(st.text())
def test_any_text_is_a_step_or_told_why_not(text: str) -> None:
    try:
        step = parse_step(text)
    except StepError as error:
        message = error.message
    else:
        message = ""
        assert str(step) == text
    assert message.isascii()
    assert message.isprintable()
