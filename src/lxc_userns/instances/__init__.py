# SPDX-License-Identifier: Apache-2.0
"""Instances: what each was promised, has on disk, and shares with others."""
