# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of flows between the firewall's side, "here", and a host outside, "there"."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests import frames
from xdpfw.compiler.ir import Family

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
ACK: Final = 0x10

PROTOCOLS: Final = {"tcp": frames.TCP, "udp": frames.UDP, "sctp": frames.SCTP}


class Ends(NamedTuple):
    """Addresses, host-order integers, and ports of a flow; of an ICMP echo, ``here_port`` is its id."""

    family: Family = Family.IPV4
    here: int = frames.DST_V4
    here_port: int = 40000
    there: int = frames.SRC_V4
    there_port: int = 443

    def sent(self, proto: str = "tcp", flags: int = ACK, *, seq: int = 0, ack: int = 0) -> bytes:
        """From here to there."""
        header = _header(proto, self.here_port, self.there_port, flags, seq, ack)
        return _ip(self.family, PROTOCOLS[proto], self.here, self.there, header)

    def received(self, proto: str = "tcp", flags: int = ACK, *, seq: int = 0, ack: int = 0) -> bytes:
        """From there to here."""
        header = _header(proto, self.there_port, self.here_port, flags, seq, ack)
        return _ip(self.family, PROTOCOLS[proto], self.there, self.here, header)

    def echo_sent(self, *, is_reply: bool = False) -> bytes:
        return _ip(self.family, self.icmp, self.here, self.there, self._echo(is_reply))

    def echo_received(self, *, is_reply: bool = False) -> bytes:
        return _ip(self.family, self.icmp, self.there, self.here, self._echo(is_reply))

    def error(self, quoted: bytes, *, src: int = 0, type: int | None = None, dst: int | None = None) -> bytes:
        """An ICMP error about ``quoted``, an IP packet or the beginning of one: unreachable."""
        kind = (3 if self.family is Family.IPV4 else 1) if type is None else type
        message = frames.icmp(kind, 1, body=quoted)
        return _ip(self.family, self.icmp, src or self.there + 1, self.here if dst is None else dst, message)

    @property
    def icmp(self) -> int:
        return frames.ICMP if self.family is Family.IPV4 else frames.ICMPV6

    def _echo(self, is_reply: bool) -> bytes:
        request, reply = (8, 0) if self.family is Family.IPV4 else (128, 129)
        return frames.icmp(reply if is_reply else request, rest=self.here_port << 16 | 1, body=bytes(8))


V4: Final = Ends()
V6: Final = Ends(Family.IPV6, here=frames.DST_V6, there=frames.SRC_V6)


def datagram(frame: bytes, length: int | None = None) -> bytes:
    """The IP packet of an untagged frame, or its first ``length`` bytes."""
    return frame[14:] if length is None else frame[14 : 14 + length]


def _header(proto: str, sport: int, dport: int, flags: int, seq: int, ack: int) -> bytes:
    if proto == "tcp":
        return frames.tcp(sport, dport, flags, seq=seq, ack=ack)
    return frames.udp(sport, dport) if proto == "udp" else frames.sctp(sport, dport)


def _ip(family: Family, proto: int, src: int, dst: int, payload: bytes) -> bytes:
    if family is Family.IPV4:
        return frames.v4_frame(payload, proto, src=src, dst=dst)
    return frames.v6_frame(payload, proto, src=src, dst=dst)
