/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The built-in allowances, which come before all rules. Returns the allowance's reason, or 0. */
#ifndef XDPFW_ALLOW_H
#define XDPFW_ALLOW_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "constants.h"
#include "packet.h"

enum {
	DHCP_SERVER = 67,	/* RFC 2131 section 4.1 */
	DHCP_CLIENT = 68,
	DHCPV6_SERVER = 547,	/* RFC 8415 section 7.2 */
	DHCPV6_CLIENT = 546,
	ND_HOP_LIMIT = 255,	/* RFC 4861 section 7.1: not forwarded by any router */
	ICMP_DEST_UNREACH_TYPE = 3,
	ICMP_TIME_EXCEEDED_TYPE = 11,
	ICMP_PARAMETER_PROBLEM_TYPE = 12,
	ICMPV6_FIRST_ERROR = 1,
	ICMPV6_LAST_ERROR = 4,
	ND_FIRST_TYPE = 133,	/* router solicitation */
	ND_LAST_TYPE = 137,	/* redirect */
};

static __always_inline __u32 icmp_type(const struct packet *p, __u32 first_detail)
{
	return (p->value[XDPFW_FIELD_DETAIL] - first_detail) >> 8;
}

static __always_inline bool is_dhcp_reply(const struct packet *p)
{
	__u32 sport = p->value[XDPFW_FIELD_SPORT], dport = p->value[XDPFW_FIELD_DPORT];

	if (p->value[XDPFW_FIELD_PROTO] != IPPROTO_UDP)
		return false;
	if (p->family == XDPFW_FAMILY_IPV4)
		return sport == DHCP_SERVER && dport == DHCP_CLIENT;
	return sport == DHCPV6_SERVER && dport == DHCPV6_CLIENT;
}

static __always_inline bool has_icmpv6(const struct packet *p)
{
	return p->value[XDPFW_FIELD_PROTO] == IPPROTO_ICMPV6 && p->value[XDPFW_FIELD_DETAIL] != XDPFW_NO_DETAIL;
}

static __always_inline bool is_neighbour_discovery(const struct packet *p)
{
	__u32 type = icmp_type(p, XDPFW_DETAIL_ICMPV6);

	/* RFC 6980: neighbour discovery is never fragmented. */
	return has_icmpv6(p) && p->value[XDPFW_FIELD_TTL] == ND_HOP_LIMIT &&
	       p->fragment == XDPFW_FRAGMENT_NONE && type >= ND_FIRST_TYPE && type <= ND_LAST_TYPE;
}

static __always_inline bool is_icmp_error(const struct packet *p)
{
	__u32 type;

	if (has_icmpv6(p)) {
		type = icmp_type(p, XDPFW_DETAIL_ICMPV6);
		return type >= ICMPV6_FIRST_ERROR && type <= ICMPV6_LAST_ERROR;
	}
	if (p->value[XDPFW_FIELD_PROTO] != IPPROTO_ICMP || p->value[XDPFW_FIELD_DETAIL] == XDPFW_NO_DETAIL)
		return false;
	type = icmp_type(p, XDPFW_DETAIL_ICMP);
	return type == ICMP_DEST_UNREACH_TYPE || type == ICMP_TIME_EXCEEDED_TYPE ||
	       type == ICMP_PARAMETER_PROBLEM_TYPE;
}

static __always_inline enum xdpfw_reason allow(const struct packet *p)
{
	if (CONSTANT(allow.arp) && p->value[XDPFW_FIELD_ETHERTYPE] == ETH_P_ARP)
		return XDPFW_REASON_ALLOW_ARP;
	if (CONSTANT(allow.ndp) && is_neighbour_discovery(p))
		return XDPFW_REASON_ALLOW_NDP;
	if (CONSTANT(allow.dhcp) && is_dhcp_reply(p))
		return XDPFW_REASON_ALLOW_DHCP;
	if (CONSTANT(allow.icmp_errors) && is_icmp_error(p))
		return XDPFW_REASON_ALLOW_ICMP_ERRORS;
	if (CONSTANT(allow.established) && p->value[XDPFW_FIELD_STATE] == XDPFW_PACKET_STATE_ESTABLISHED)
		return XDPFW_REASON_ALLOW_ESTABLISHED;
	return 0;
}

#endif
