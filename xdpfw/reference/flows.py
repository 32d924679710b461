# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows: which packets belong to what the firewall's side has sent.

There is room for all of them here, so that nothing is ever driven out; and no local sockets.
"""

from __future__ import annotations

from typing import Final

from xdpfw.compiler import ir
from xdpfw.compiler.ir import Family, Fragment
from xdpfw.packet.decode import (
    EXTENSION_HEADERS,
    MAX_EXTENSION_HEADERS,
    PROTO_AH,
    PROTO_FRAGMENT,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    Packet,
    has_icmp_header,
)
from xdpfw.reference.memory import Flow, FlowKey, FlowState, Instant, Memory

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

S: Final = 1_000_000_000
LASTS_NS: Final = {
    FlowState.SYN_SENT: 120 * S,
    FlowState.ANSWERED: 60 * S,
    FlowState.HALF_OPEN: 60 * S,
    FlowState.ESTABLISHED: 5 * 86400 * S,
    FlowState.CLOSING: 120 * S,
    FlowState.CLOSED: 10 * S,
    FlowState.UNREPLIED: 30 * S,
    FlowState.REPLIED: 180 * S,
}
ECHO_LASTS_NS: Final = 30 * S
REFRESH_NS: Final = S
"""The end of a flow is moved by so much, or not at all."""

ANSWER_BYTES: Final = 1 << 16
"""That may come with a SYN's answer."""

WITH_PORTS: Final = (PROTO_TCP, PROTO_UDP, PROTO_SCTP)
ECHO_COUNTERPARTS: Final = {Family.IPV4: {0: 8, 8: 0}, Family.IPV6: {128: 129, 129: 128}}
ERRORS: Final = {Family.IPV4: (3, 11, 12), Family.IPV6: (1, 2, 3, 4)}


class Flows:
    """The flows at one moment."""

    def __init__(self, memory: Memory, now: Instant) -> None:
        self.memory = memory
        self.now = now

    def state_of(self, packet: Packet) -> ir.State | None:
        """The state of a packet that comes in, which moves its flow on; None: it has none."""
        if packet.family is Family.OTHER or packet.fragment is Fragment.LATER:
            return None
        return ir.State.ESTABLISHED if self._belongs(packet) else ir.State.NEW

    def _belongs(self, packet: Packet) -> bool:
        if packet.icmp_type in ERRORS[packet.family]:
            quoted = _quoted_key(packet)
            return quoted is not None and self._live(quoted) is not None
        flags = packet.tcp_flags
        if flags is not None and flags & SYN and not flags & ACK:
            return False  # it begins something, whatever there is
        key = _key_of_received(packet)
        flow = None if key is None else self._live(key)
        if key is None or flow is None:
            return False
        if flags is None:
            self._move(key, flow, FlowState.REPLIED)
            return True
        return self._receive_tcp(key, flow, flags, packet)

    def _receive_tcp(self, key: FlowKey, flow: Flow, flags: int, packet: Packet) -> bool:
        state = flow.state
        confirms = flags & (SYN | ACK) == ACK and packet.tcp_ack == flow.expected_ack
        if state is FlowState.HALF_OPEN and not flags & RST and not confirms:
            return False
        is_begun = state in (FlowState.SYN_SENT, FlowState.ANSWERED)
        if state is FlowState.CLOSED or (is_begun and not flags & (RST | SYN)):
            return True
        if is_begun and not flags & RST:
            assert packet.tcp_seq is not None
            expected_ack = packet.tcp_seq + 1 & 0xFFFFFFFF
            if state is FlowState.SYN_SENT or expected_ack != flow.expected_ack:
                self._move(key, flow, FlowState.ANSWERED, expected_ack)
        elif state is FlowState.CLOSING:
            self._move(key, flow, state)
        elif flags & RST:
            self._move(key, flow, FlowState.CLOSED)
        elif flags & FIN:
            self._move(key, flow, FlowState.CLOSING)
        else:
            self._move(key, flow, FlowState.ESTABLISHED)
        return True

    def note_sent(self, packet: Packet) -> None:
        """Takes in that the firewall's side sends a packet."""
        key = _key_of_sent(packet)
        if key is None:
            return
        flow = self._live(key)
        if packet.tcp_flags is not None:
            self._send_tcp(key, flow, packet)
        else:
            self._move(key, flow, FlowState.UNREPLIED if flow is None else flow.state)

    def _send_tcp(self, key: FlowKey, flow: Flow | None, packet: Packet) -> None:
        flags, seq, ack = packet.tcp_flags, packet.tcp_seq, packet.tcp_ack
        assert flags is not None
        assert seq is not None
        assert ack is not None
        state = None if flow is None else flow.state
        is_over = state in (None, FlowState.CLOSED, FlowState.CLOSING)
        if flags & RST:
            if state not in (None, FlowState.CLOSED):
                self._move(key, flow, FlowState.CLOSED)
        elif flags & SYN and flags & ACK:
            if is_over or state is FlowState.HALF_OPEN:
                self._move(key, flow, FlowState.HALF_OPEN, expected_ack=seq + 1 & 0xFFFFFFFF)
        elif flags & SYN:
            if is_over or state is None:
                self._move(key, flow, FlowState.SYN_SENT)
            else:
                self._move(key, flow, state)
        elif state is FlowState.HALF_OPEN:
            pass
        elif flow is not None and _waits(flow, flags, ack):
            self._move(key, flow, flow.state)
        elif flags & FIN:
            self._move(key, flow, FlowState.CLOSING)
        elif state is FlowState.CLOSING:
            self._move(key, flow, state)
        else:
            self._move(key, flow, FlowState.ESTABLISHED)

    def note_forwarded(self, packet: Packet) -> None:
        """Takes in that a packet that came was sent on through another interface."""
        if packet.family is not Family.OTHER and packet.fragment is not Fragment.LATER:
            self.note_sent(packet)

    def _live(self, key: FlowKey) -> Flow | None:
        flow = self.memory.flows.get(key)
        return None if flow is None or flow.until_ns <= self.now.boot_ns else flow

    def _move(self, key: FlowKey, flow: Flow | None, state: FlowState, expected_ack: int | None = None) -> None:
        is_echo = key.proto in (PROTO_ICMP, PROTO_ICMPV6)
        until_ns = self.now.boot_ns + (ECHO_LASTS_NS if is_echo else LASTS_NS[state])
        if expected_ack is None:
            expected_ack = 0 if flow is None else flow.expected_ack
        is_same = flow is not None and (flow.state, flow.expected_ack) == (state, expected_ack)
        if flow is not None and is_same and until_ns < flow.until_ns + REFRESH_NS:
            return
        self.memory.flows[key] = Flow(state, until_ns, expected_ack)


def _waits(flow: Flow, flags: int, ack: int) -> bool:
    """Whether a SYN's sender has yet to acknowledge the answer or what came with it, whose number only he knows."""
    if flow.state is FlowState.ANSWERED:
        return not flags & ACK or (ack - flow.expected_ack & 0xFFFFFFFF) >= ANSWER_BYTES
    return flow.state is FlowState.SYN_SENT


def _key_of_received(packet: Packet) -> FlowKey | None:
    """The flow that a packet belongs to which comes in; None: there are none of its kind."""
    if packet.src is None or packet.dst is None or packet.proto is None:
        return None
    if packet.proto in WITH_PORTS:
        assert packet.sport is not None
        assert packet.dport is not None
        return FlowKey(packet.family, packet.proto, packet.src, packet.sport, packet.dst, packet.dport)
    if packet.icmp_type in ECHO_COUNTERPARTS.get(packet.family, {}):
        assert packet.icmp_rest is not None
        echo_id = int.from_bytes(packet.icmp_rest[:2])
        return FlowKey(packet.family, packet.proto, packet.src, packet.icmp_type, packet.dst, echo_id)
    return None


def _key_of_sent(packet: Packet) -> FlowKey | None:
    """The flow that a packet makes or belongs to which is sent, by what would come back."""
    if packet.fragment is Fragment.LATER:
        return None
    key = _key_of_received(packet)
    if key is None:
        return None
    remote_port, local_port = key.local_port, key.remote_port
    if key.proto not in WITH_PORTS:
        remote_port, local_port = ECHO_COUNTERPARTS[key.family][key.remote_port], key.local_port
    return key._replace(remote=key.local, local=key.remote, remote_port=remote_port, local_port=local_port)


def _quoted_key(error: Packet) -> FlowKey | None:
    """The flow whose packet an ICMP error quotes (RFC 792; RFC 4443, section 3), to whoever has sent that packet."""
    assert error.icmp_rest is not None
    quoted = error.icmp_rest[4:]
    found = _quoted_ipv4(quoted) if error.family is Family.IPV4 else _quoted_ipv6(quoted)
    if found is None:
        return None
    local, remote, proto, data = found
    if local != error.dst or len(data) < 8:
        return None
    if proto in WITH_PORTS:
        local_port, remote_port = int.from_bytes(data[:2]), int.from_bytes(data[2:4])
        return FlowKey(error.family, proto, remote, remote_port, local, local_port)
    if has_icmp_header(error.family, proto) and data[0] in ECHO_COUNTERPARTS[error.family]:
        expected = ECHO_COUNTERPARTS[error.family][data[0]]
        return FlowKey(error.family, proto, remote, expected, local, int.from_bytes(data[4:6]))
    return None


def _quoted_ipv4(data: bytes) -> tuple[int, int, int, bytes] | None:
    """Source, destination, protocol and what follows; None: there is no IPv4 header, or that of a later fragment."""
    header_bytes = (data[0] & 0x0F) * 4 if data else 0
    if len(data) < 20 or data[0] >> 4 != 4 or header_bytes < 20 or int.from_bytes(data[6:8]) & 0x1FFF:
        return None
    return int.from_bytes(data[12:16]), int.from_bytes(data[16:20]), data[9], data[header_bytes:]


def _quoted_ipv6(data: bytes) -> tuple[int, int, int, bytes] | None:
    """The same behind extension headers, which must be there as far as they are walked."""
    if len(data) < 40 or data[0] >> 4 != 6:
        return None
    src, dst, proto = int.from_bytes(data[8:24]), int.from_bytes(data[24:40]), data[6]
    data = data[40:]
    for _ in range(MAX_EXTENSION_HEADERS):
        if proto not in EXTENSION_HEADERS:
            break
        if len(data) < 8:
            return None
        header_bytes = (data[1] + 1) * 8
        if proto == PROTO_AH:
            header_bytes = (data[1] + 2) * 4
        elif proto == PROTO_FRAGMENT:
            header_bytes = 8
            if int.from_bytes(data[2:4]) & 0xFFF8:
                return None
        if len(data) < header_bytes:
            return None
        proto, data = data[0], data[header_bytes:]
    return src, dst, proto, data
