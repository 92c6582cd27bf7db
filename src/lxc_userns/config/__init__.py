# SPDX-License-Identifier: Apache-2.0
"""Configuration: options, their values, and the check of them on this host."""
