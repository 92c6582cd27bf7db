# SPDX-License-Identifier: Apache-2.0
"""Containers that no one asked this package to make."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import libvirt

from lxc_userns.libvirtd.client import Guests
from tests.functional.command_line import BASE, COUNT
from tests.waiting import wait_for

XML = """\
<domain type='lxc' xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type>exe</type><init>/bin/sh</init>
    <initarg>-c</initarg><initarg>{script}</initarg>
  </os>
  {idmap}
  <features>{features}</features>
  <devices>
    <filesystem type='mount'>
      <source dir='{rootfs}'/><target dir='/'/>
    </filesystem>
    {devices}
    <console type='pty'/>
  </devices>
  {last}
</domain>
"""
PRIVNET = "<privnet/>"


def idmap(gid: str = f"0:{BASE}:{COUNT}") -> str:
    """``<idmap>`` with these entries for groups."""
    uid = f"<uid start='0' target='{BASE}' count='{COUNT}'/>"
    entries = (entry.split(":") for entry in gid.split(","))
    return f"<idmap>{uid}" + "".join(
        f"<gid start='{start}' target='{target}' count='{count}'/>"
        for start, target, count in entries
    ) + "</idmap>"  # fmt: skip


@dataclass(frozen=True)
class Foreign:
    """A running container of others.

    :param said: what its first process has said; that one runs with the
        rights that libvirt gives, as no one who enters does.
    """

    name: str
    domain: libvirt.virDomain
    init: int
    said: str


@contextmanager
def running(
    connection: libvirt.virConnect,
    name: str,
    rootfs: Path,
    script: str = "",
    *,
    ids: str = "",
    features: str = PRIVNET,
    devices: str = "",
    last: str = "",
) -> Iterator[Foreign]:
    """Run a container as this XML makes it, and destroy it.

    :param script: shell commands for its first process.
    """
    result = rootfs / "result"
    result.unlink(missing_ok=True)
    whole = f"({script or ':'}) >/new 2>&1; mv /new /result; exec sleep 1000"
    domain = connection.createXML(
        XML.format(
            name=name,
            script=escape(whole),
            idmap=ids,
            features=features,
            rootfs=rootfs,
            devices=devices,
            last=last,
        )
    )
    try:
        with Guests().init_process(name) as init:
            pid = int(init.pid)
        wait_for(result.exists)
        yield Foreign(name, domain, pid, result.read_text())
    finally:
        with suppress(libvirt.libvirtError):
            domain.destroy()
