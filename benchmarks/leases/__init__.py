# SPDX-License-Identifier: Apache-2.0
"""Leases: what one more takes, beside as many as a host may hold."""
