# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of several buffers, as drivers hand on jumbo frames: with headers in the first buffer, and beyond it.

A test run puts what is behind ``xdp_md.data_end`` into further buffers, from Linux 6.18 on (bpf_prog_test_run_xdp()
in net/bpf/test_run.c); before, only what does not fit into a page.
"""

from __future__ import annotations

import errno
import functools
import random
import struct
from collections.abc import Callable

import pytest

from tests.frames import (
    AH,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    MOBILITY,
    ROUTING,
    UDP,
    VLAN,
    ethernet,
    extended,
    extension,
    ipv4,
    ipv6,
    tcp,
    udp,
    v4_frame,
    v6_frame,
)
from tests.kernel.agreement import agreement
from tests.kernel.odd_frames import INVALID, VALID
from tests.policies import written
from xdpfw.compiler.image import compile_policy
from xdpfw.kernel import abi
from xdpfw.kernel.libbpf import ffi, libbpf, options
from xdpfw.kernel.program import Generation
from xdpfw.kernel.testrun import LOOPBACK, OUTPUT_BYTES, Outcome

pytestmark = pytest.mark.needs("privileges", "data plane")

VERDICTS = ("aborted", "drop", "pass", "tx", "redirect")
ETHERNET_BYTES = 14
"""The shortest first buffer that a test run takes."""

RULES = [
    "{name: ssh, match: {proto: tcp, dport: 22, tcp_flags: 'syn,!ack'}, action: drop}",
    "{name: dns, match: {proto: udp, dport: 53}, action: tx}",
    "{name: odd, match: {ip_options: true}, action: {redirect: {interface: b, src_mac: '02:00:00:00:00:09'}}}",
    "{name: later, match: {fragment: later}, action: drop}",
    "{name: macs, match: {src_mac: '02:00:00:00:00:01', vlan: 1}, action: drop}",
]


def split_after(generation: Generation, linear_bytes: int) -> Callable[[bytes, int | None], Outcome]:
    """A twin of Generation.run whose frames have ``linear_bytes`` in their first buffer, if they are so long."""
    output = ffi.new("char[]", OUTPUT_BYTES)

    def run(frame: bytes, interface: int | None) -> Outcome:
        generation.set_interface(LOOPBACK, interface)
        context = struct.pack("=6I", 0, min(linear_bytes, len(frame)), 0, 0, 0, 0)
        data, context_data = ffi.from_buffer(frame), ffi.from_buffer(context)
        opts = options(
            "bpf_test_run_opts",
            data_in=data,
            data_size_in=len(frame),
            data_out=output,
            data_size_out=OUTPUT_BYTES,
            ctx_in=context_data,
            ctx_size_in=len(context),
            repeat=1,
        )
        result = libbpf().bpf_prog_test_run_opts(generation.program.fileno(), opts)
        if result < 0:
            raise OSError(-result, errno.errorcode[-result])
        trace = abi.unpack("trace", generation.maps.trace.read(0))
        rule = trace.rule if trace.reason == abi.Reason.RULE else None
        left = ffi.buffer(output, opts.data_size_out)[:]
        return Outcome(VERDICTS[opts.retval], abi.reason_name(trace.reason), rule, left, 0)

    return run


@functools.cache
def can_split() -> bool:
    with Generation.load(compile_policy(written()), interfaces=[], targets=[], trace=True) as generation:
        try:
            split_after(generation, ETHERNET_BYTES)(v4_frame(tcp()), 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
    return True


@pytest.fixture
def _splits() -> None:
    if not can_split():
        reason = "this kernel's test runs fill the first buffer before another: Linux 6.18 has them as asked"
        print(f"skipped: {reason}")
        pytest.skip(reason)


PACKETS_ONLY = ("packets",)
"""Padding that begins exactly where the first buffer ends is not counted: see end_at_datagram() in bpf/parse.h."""

FRAMES = {
    "v4": v4_frame(tcp()),
    "v4 options": v4_frame(tcp(), options=bytes((1,) * 40)),
    "v4 tags": ethernet(IPV4, ipv4(udp(1, 53), UDP), tags=[(VLAN, i) for i in range(1, 5)]),
    "v6": v6_frame(tcp()),
    "v6 tags": ethernet(IPV6, ipv6(udp(1, 53), UDP), tags=[(VLAN, 1)]),
    "v6 extensions": v6_frame(*extended([HOP_BY_HOP, DESTINATION, ROUTING, FRAGMENT, AH, MOBILITY], tcp())),
    "v6 long extension": v6_frame(extension(DESTINATION, UDP, length=9) + udp(1, 53), DESTINATION),
    "later": v6_frame(*extended([FRAGMENT], tcp(), fragment=8)),
}


@pytest.mark.usefixtures("_splits")
@pytest.mark.parametrize("name", FRAMES)
def test_headers_beyond_the_first_buffer(name: str) -> None:
    """The first buffer ends behind each byte of the headers in turn, and after each the frame is cut short too."""
    frame = FRAMES[name] + bytes(30)
    with agreement(written(*RULES)) as both:
        both.views = PACKETS_ONLY
        for linear_bytes in range(ETHERNET_BYTES, len(frame) + 1):
            both.execute = split_after(both.generation, linear_bytes)
            assert both.run(frame).kind == "rule"
            both.run(frame[: (linear_bytes + len(frame)) // 2])


@pytest.mark.usefixtures("_splits")
@pytest.mark.parametrize("linear_bytes", [14, 15, 18, 30, 34, 35, 50, 54, 55])
def test_odd_frames_in_several_buffers(linear_bytes: int) -> None:
    frames = [*VALID, *(frame for name in INVALID for frame in INVALID[name] if len(frame) >= ETHERNET_BYTES)]
    with agreement(written(*RULES)) as both:
        both.views = PACKETS_ONLY
        both.execute = split_after(both.generation, linear_bytes)
        for frame in frames:
            both.run(frame)


@pytest.mark.usefixtures("_splits")
def test_a_header_behind_the_first_page() -> None:
    """Extension headers of 2 KiB each put TCP behind several pages: at 16 KiB, eight of them."""
    payload, following = tcp(), 6
    for _ in range(8):
        payload, following = extension(DESTINATION, following, length=255) + payload, DESTINATION
    frame = v6_frame(payload, following)
    assert len(frame) > 16_000
    with agreement(written(*RULES)) as both:
        for linear_bytes in (14, 60, 2048, 3000):
            both.execute = split_after(both.generation, linear_bytes)
            assert both.run(frame).rule == "ssh"
            assert both.run(frame[:-1]).reason == "invalid.ipv6_length"


@pytest.mark.parametrize("length", [3500, 3520, 3521, 4096, 5000, 9014, 20_000, 65_535])
def test_jumbo_frames(length: int) -> None:
    """Headers in the first buffer, payload in as many as it takes."""
    payload = random.Random(length).randbytes(length - 40)
    with agreement(written(*RULES)) as both:
        assert both.run(v4_frame(tcp() + payload)).rule == "ssh"
        assert both.run(v4_frame(udp(1, 53) + payload, UDP)).rule == "dns"
        assert both.run(v4_frame(tcp() + payload, total_length=40)).rule == "ssh"
        assert both.run(v4_frame(tcp() + payload[:-1], total_length=length)).reason == "invalid.ipv4_length"
        assert both.run(v6_frame(tcp() + payload[20:])).rule == "ssh"
        assert both.run(v6_frame(*extended([HOP_BY_HOP], payload[28:], 99))).rule == "odd"


@pytest.mark.parametrize("headers", [2, 3, 8])
def test_long_extension_headers(headers: int) -> None:
    """TCP lies in the last of 1 to 5 buffers; a kernel of any version can be made to run this."""
    payload, following = tcp(), 6
    for _ in range(headers):
        payload, following = extension(DESTINATION, following, length=255) + payload, DESTINATION
    with agreement(written(*RULES)) as both:
        assert both.run(v6_frame(payload, following)).rule == "ssh"
        assert both.run(v6_frame(payload, following) + bytes(5000)).rule == "ssh"
