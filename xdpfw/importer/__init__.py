# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies of other firewalls, as policies of this one and a list of what differs. A module a format."""
