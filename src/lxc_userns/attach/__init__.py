# SPDX-License-Identifier: Apache-2.0
"""Commands in running containers.

A process of the host, the *joiner*, becomes one of the container's: it enters
the container's control groups and namespaces, gives up what the container's
first process does not have, and executes the command.
"""
