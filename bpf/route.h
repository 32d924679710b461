/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where packets go on to: by the kernel's FIB, or to other CPUs. */
#ifndef XDPFW_ROUTE_H
#define XDPFW_ROUTE_H

#include "maps.h"
#include "packet.h"
#include "scratch.h"

/* A global function. Returns an enum xdpfw_verdict: PASS for what the FIB can't forward. */
__attribute__((noinline)) int route(struct xdp_md *ctx, const struct packet *p)
{
	asm volatile("" : : "r"(ctx));
	asm volatile("" : : "r"(p));
	return XDPFW_VERDICT_PASS;
}

/* Up the stack, on one of so many CPUs from element first of cpu_choices on. A global function. Returns a verdict. */
__attribute__((noinline)) int spread(const struct packet *p, __u32 first, __u32 count)
{
	asm volatile("" : : "r"(p));
	asm volatile("" : : "r"(first));
	asm volatile("" : : "r"(count));
	return XDPFW_VERDICT_PASS;
}

#endif
