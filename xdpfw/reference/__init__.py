# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy does with packets, written down once more and as plainly as can be."""
