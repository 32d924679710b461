# SPDX-License-Identifier: GPL-2.0-or-later
"""What the names in a policy stand for.

The tables are part of the language: the same policy means the same on every machine, whatever its /etc/services
says. Numbers are IANA's (service-names-port-numbers, protocol-numbers, ieee-802-numbers, icmp-parameters,
icmpv6-parameters, dscp-registry).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58

BANS: Final = "bans"
"""The dynamic set that every firewall has, declared or not."""

PROTOCOLS: Final = {
    "hopopt": 0,
    "icmp": ICMP,
    "igmp": 2,
    "ipip": 4,
    "tcp": TCP,
    "egp": 8,
    "udp": UDP,
    "dccp": 33,
    "ipv6": 41,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": ICMPV6,
    "ipv6-icmp": ICMPV6,
    "ipv6-nonxt": 59,
    "eigrp": 88,
    "ospf": 89,
    "etherip": 97,
    "pim": 103,
    "ipcomp": 108,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
    "mpls-in-ip": 137,
    "hip": 139,
    "shim6": 140,
}

PORT_PROTOCOLS: Final = frozenset(PROTOCOLS[name] for name in ("tcp", "udp", "udplite", "sctp", "dccp"))

TAG_ETHERTYPES: Final = frozenset((0x8100, 0x88A8))

# Name to lowest and highest number: both stages of PPPoE have one name, as have both kinds of MPLS.
ETHERTYPES: Final = {
    "ipv4": (0x0800, 0x0800),
    "arp": (0x0806, 0x0806),
    "wol": (0x0842, 0x0842),
    "trill": (0x22F3, 0x22F3),
    "teb": (0x6558, 0x6558),
    "rarp": (0x8035, 0x8035),
    "appletalk": (0x809B, 0x809B),
    "aarp": (0x80F3, 0x80F3),
    "ipv6": (0x86DD, 0x86DD),
    "flow-control": (0x8808, 0x8808),
    "slow": (0x8809, 0x8809),
    "lacp": (0x8809, 0x8809),
    "mpls": (0x8847, 0x8848),
    "mpls-unicast": (0x8847, 0x8847),
    "mpls-multicast": (0x8848, 0x8848),
    "pppoe": (0x8863, 0x8864),
    "pppoe-discovery": (0x8863, 0x8863),
    "pppoe-session": (0x8864, 0x8864),
    "homeplug": (0x88E1, 0x88E1),
    "eapol": (0x888E, 0x888E),
    "profinet": (0x8892, 0x8892),
    "aoe": (0x88A2, 0x88A2),
    "ethercat": (0x88A4, 0x88A4),
    "goose": (0x88B8, 0x88B8),
    "lldp": (0x88CC, 0x88CC),
    "macsec": (0x88E5, 0x88E5),
    "pbb": (0x88E7, 0x88E7),
    "mvrp": (0x88F5, 0x88F5),
    "ptp": (0x88F7, 0x88F7),
    "cfm": (0x8902, 0x8902),
    "fcoe": (0x8906, 0x8906),
    "fip": (0x8914, 0x8914),
    "roce": (0x8915, 0x8915),
    "hsr": (0x892F, 0x892F),
    "loopback": (0x9000, 0x9000),
}

SERVICES: Final = {
    "tcpmux": 1,
    "echo": 7,
    "discard": 9,
    "systat": 11,
    "daytime": 13,
    "qotd": 17,
    "chargen": 19,
    "ftp-data": 20,
    "ftp": 21,
    "ssh": 22,
    "telnet": 23,
    "smtp": 25,
    "time": 37,
    "whois": 43,
    "tacacs": 49,
    "domain": 53,
    "dns": 53,
    "bootps": 67,
    "dhcp-server": 67,
    "bootpc": 68,
    "dhcp-client": 68,
    "tftp": 69,
    "gopher": 70,
    "finger": 79,
    "http": 80,
    "kerberos": 88,
    "iso-tsap": 102,
    "pop3": 110,
    "sunrpc": 111,
    "auth": 113,
    "ident": 113,
    "nntp": 119,
    "ntp": 123,
    "epmap": 135,
    "netbios-ns": 137,
    "netbios-dgm": 138,
    "netbios-ssn": 139,
    "imap": 143,
    "imap2": 143,
    "snmp": 161,
    "snmptrap": 162,
    "snmp-trap": 162,
    "xdmcp": 177,
    "bgp": 179,
    "ptp-event": 319,
    "ptp-general": 320,
    "ldap": 389,
    "svrloc": 427,
    "https": 443,
    "microsoft-ds": 445,
    "kpasswd": 464,
    "submissions": 465,
    "smtps": 465,
    "isakmp": 500,
    "exec": 512,
    "login": 513,
    "shell": 514,
    "syslog": 514,
    "printer": 515,
    "rip": 520,
    "ripng": 521,
    "dhcpv6-client": 546,
    "dhcpv6-server": 547,
    "afpovertcp": 548,
    "rtsp": 554,
    "nntps": 563,
    "submission": 587,
    "asf-rmcp": 623,
    "ipp": 631,
    "ldaps": 636,
    "ldp": 646,
    "tinc": 655,
    "kerberos-adm": 749,
    "domain-s": 853,
    "dns-over-tls": 853,
    "rsync": 873,
    "ftps-data": 989,
    "ftps": 990,
    "telnets": 992,
    "imaps": 993,
    "pop3s": 995,
    "socks": 1080,
    "openvpn": 1194,
    "ms-sql-s": 1433,
    "ms-sql-m": 1434,
    "l2tp": 1701,
    "pptp": 1723,
    "radius": 1812,
    "radius-acct": 1813,
    "mqtt": 1883,
    "ssdp": 1900,
    "nfs": 2049,
    "gtp-control": 2123,
    "gtp-user": 2152,
    "etcd-client": 2379,
    "etcd-server": 2380,
    "iscsi-target": 3260,
    "mysql": 3306,
    "ms-wbt-server": 3389,
    "rdp": 3389,
    "stun": 3478,
    "nut": 3493,
    "svn": 3690,
    "bfd-control": 3784,
    "epmd": 4369,
    "ntske": 4460,
    "ipsec-nat-t": 4500,
    "vxlan": 4789,
    "sip": 5060,
    "sips": 5061,
    "sip-tls": 5061,
    "xmpp-client": 5222,
    "xmpp-server": 5269,
    "stuns": 5349,
    "mdns": 5353,
    "llmnr": 5355,
    "postgresql": 5432,
    "amqps": 5671,
    "amqp": 5672,
    "coap": 5683,
    "coaps": 5684,
    "vnc": 5900,
    "x11": 6000,
    "geneve": 6081,
    "redis": 6379,
    "syslog-tls": 6514,
    "babel": 6696,
    "ircs-u": 6697,
    "http-alt": 8080,
    "https-alt": 8443,
    "secure-mqtt": 8883,
    "git": 9418,
    "zabbix-agent": 10050,
    "zabbix-trapper": 10051,
    "memcache": 11211,
    "wireguard": 51820,
}

DSCPS: Final = {
    "be": 0,
    "le": 1,
    "cs0": 0,
    "cs1": 8,
    "cs2": 16,
    "cs3": 24,
    "cs4": 32,
    "cs5": 40,
    "cs6": 48,
    "cs7": 56,
    "af11": 10,
    "af12": 12,
    "af13": 14,
    "af21": 18,
    "af22": 20,
    "af23": 22,
    "af31": 26,
    "af32": 28,
    "af33": 30,
    "af41": 34,
    "af42": 36,
    "af43": 38,
    "voice-admit": 44,
    "ef": 46,
}

ICMP_TYPES: Final = {
    ICMP: {
        "echo-reply": 0,
        "unreachable": 3,
        "destination-unreachable": 3,
        "source-quench": 4,
        "redirect": 5,
        "echo-request": 8,
        "router-advertisement": 9,
        "router-solicitation": 10,
        "time-exceeded": 11,
        "parameter-problem": 12,
        "timestamp-request": 13,
        "timestamp-reply": 14,
        "information-request": 15,
        "information-reply": 16,
        "address-mask-request": 17,
        "address-mask-reply": 18,
        "extended-echo-request": 42,
        "extended-echo-reply": 43,
    },
    ICMPV6: {
        "unreachable": 1,
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "echo-reply": 129,
        "mld-query": 130,
        "mld-report": 131,
        "mld-done": 132,
        "router-solicitation": 133,
        "router-advertisement": 134,
        "neighbor-solicitation": 135,
        "neighbor-advertisement": 136,
        "redirect": 137,
        "mld2-report": 143,
        "extended-echo-request": 160,
        "extended-echo-reply": 161,
    },
}

# (type, code) by protocol and name of the code. A code has a meaning only with its type.
ICMP_CODES: Final = {
    ICMP: {
        "net-unreachable": (3, 0),
        "host-unreachable": (3, 1),
        "protocol-unreachable": (3, 2),
        "port-unreachable": (3, 3),
        "fragmentation-needed": (3, 4),
        "source-route-failed": (3, 5),
        "net-unknown": (3, 6),
        "host-unknown": (3, 7),
        "net-prohibited": (3, 9),
        "host-prohibited": (3, 10),
        "admin-prohibited": (3, 13),
        "net-redirect": (5, 0),
        "host-redirect": (5, 1),
        "ttl-exceeded": (11, 0),
        "reassembly-exceeded": (11, 1),
    },
    ICMPV6: {
        "no-route": (1, 0),
        "admin-prohibited": (1, 1),
        "beyond-scope": (1, 2),
        "address-unreachable": (1, 3),
        "port-unreachable": (1, 4),
        "policy-fail": (1, 5),
        "reject-route": (1, 6),
        "ttl-exceeded": (3, 0),
        "reassembly-exceeded": (3, 1),
        "bad-header": (4, 0),
        "unknown-header": (4, 1),
        "unknown-option": (4, 2),
    },
}

TCP_FLAGS: Final = {name: 1 << bit for bit, name in enumerate(("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"))}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` most likely was meant to be, if one is near."""
    known = tuple(known)
    longer = [each for each in known if len(name) > 1 and each.startswith(name.lower())]
    if longer:
        return longer[0]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    # Of those that are equally near, the one with the same first letter: dst_port is dport, and not sport.
    return max(near, default=None, key=lambda each: (_likeness(name, each), each[:1] == name[:1].lower()))


def _likeness(name: str, known: str) -> float:
    return difflib.SequenceMatcher(None, known, name.lower()).ratio()


def suggestion(name: str, known: Iterable[str], *, form: str = "{}") -> str | None:
    """A hint with the nearest known name, or else, where they are few, all of them."""
    known = sorted(known)
    if near := nearest(name, known):
        return f"did you mean {form.format(near)}?"
    return f"known: {', '.join(form.format(each) for each in known)}" if 0 < len(known) <= 12 else None
