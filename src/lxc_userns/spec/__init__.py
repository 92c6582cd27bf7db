# SPDX-License-Identifier: Apache-2.0
"""Requests: what a compute service asks for; pure."""
