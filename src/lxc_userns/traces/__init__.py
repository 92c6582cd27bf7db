# SPDX-License-Identifier: Apache-2.0
"""Traces of containers: what each printed, and how it ended.

libvirt keeps neither. Beside each container that this package starts there is
a process that reads its console and notes its end; it ends with the container.
"""
