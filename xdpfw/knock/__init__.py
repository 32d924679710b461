# SPDX-License-Identifier: GPL-2.0-or-later
"""What both sides of a knock agree on, and the side that knocks.

Nothing here knows policies or the kernel's firewall, so that a client needs no more than this package.
"""
