# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy language: YAML text to checked models."""
