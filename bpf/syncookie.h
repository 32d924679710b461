/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SYN cookies: TCP ports of this host that answer no SYN of a source that has not shown that it exists. */
#ifndef XDPFW_SYNCOOKIE_H
#define XDPFW_SYNCOOKIE_H

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

/*
 * Of a packet to a protected port that belongs to no flow: one that brings a cookie back makes its source known, and is
 * taken for established. A global function. Returns 0.
 */
__attribute__((noinline)) int take_cookie(struct xdp_md *ctx, struct packet *p)
{
	asm volatile("" : : "r"(ctx));
	asm volatile("" : : "r"(p));
	return 0;
}

/*
 * Of a packet that is to pass: 0, or the reason for which it does not: PROTECT_SYN_COOKIE, and the frame is the answer by
 * now; PROTECT_BAD_COOKIE. A global function.
 */
__attribute__((noinline)) int challenge(struct xdp_md *ctx, const struct packet *p)
{
	asm volatile("" : : "r"(ctx));
	asm volatile("" : : "r"(p));
	return 0;
}

#endif
