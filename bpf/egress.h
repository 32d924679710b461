/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the firewall's side sends: the other program, at the interfaces' way out. It decides nothing, and returns what
 * lets the packet go on to whatever comes behind it, as TCX and as a filter of clsact alike.
 */
#ifndef XDPFW_EGRESS_H
#define XDPFW_EGRESS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

SEC("tc")
int xdpfw_egress(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_UNSPEC;
}

#endif
