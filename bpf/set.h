/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dynamic sets, the bans among them. */
#ifndef XDPFW_SET_H
#define XDPFW_SET_H

#include "clock.h"
#include "event.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

/* Whether the packet's source is banned and nothing says that it never is. */
static __always_inline bool is_banned(const struct packet *p)
{
	asm volatile("" : : "r"(p));
	return false;
}

/* Which of the sets that rules ask for have the packet's addresses. A global function. Returns 0. */
__attribute__((noinline)) int find_sets(struct packet *p)
{
	asm volatile("" : : "r"(p));
	return 0;
}

/* Puts the packet's source into a dynamic set, by its number in the policy. A global function. Returns 0. */
__attribute__((noinline)) int add_source(const struct packet *p, __u32 set, __u64 duration_ns, __u32 rule)
{
	asm volatile("" : : "r"(p));
	asm volatile("" : : "r"(set));
	asm volatile("" : : "r"(duration_ns));
	asm volatile("" : : "r"(rule));
	return 0;
}

#endif
