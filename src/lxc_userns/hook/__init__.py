# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns-hook``: what libvirt calls at each step of a domain's life.

See https://libvirt.org/hooks.html. libvirtd waits for it and answers no one
meanwhile, so that nothing is loaded here for a domain that is not ours.
"""

from __future__ import annotations

import sys

#: Namespace of our part of a domain's metadata.
MARKER = b"urn:lxc-userns:domain:1.0"
_USAGE = "usage: lxc-userns-hook [--config-file FILE]... NAME OPERATION ..."
#: libvirt takes no larger document.
_LONGEST = 16 << 20
_OPERATIONS = ("prepare", "started", "reconnect", "release")
#: Number of arguments that libvirt gives each hook, and the third of them.
_OF_LIBVIRT, _SUB_OPERATIONS = 4, ("begin", "end")


def main(argv: list[str] | None = None) -> int:
    """Do what a domain needs at one step; its XML is on standard input.

    :param argv: arguments: ``--config-file`` as for the command, and those of
        libvirt: name of the domain and of the step.
    :returns: exit code: 1 has libvirt refuse the start, or destroy what has
        started.
    """
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    files: list[str] = []
    while arguments[:1] == ["--config-file"] and len(arguments) > 1:
        # A domain can have the name of an option.
        is_of_libvirt = len(arguments) == _OF_LIBVIRT
        if is_of_libvirt and arguments[2] in _SUB_OPERATIONS:
            break
        files.append(arguments[1])
        del arguments[:2]
    if len(arguments) < 2:
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    name, operation = arguments[:2]
    if operation not in _OPERATIONS:
        return 0
    xml = sys.stdin.buffer.read(_LONGEST)
    if MARKER not in xml and operation != "prepare":
        return 0
    from lxc_userns.libvirtd import hook_client

    status = hook_client.ask(name, operation, xml, files)
    if status is not None:
        return status
    from lxc_userns.hook.calls import call, keep

    status = call(name, operation, xml, files or None)
    keep(files or None)
    return status
