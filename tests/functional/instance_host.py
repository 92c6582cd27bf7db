# SPDX-License-Identifier: Apache-2.0
"""One instance on a real host with a pool, and all that there is of it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
from oslo_config import cfg

from lxc_userns import (
    InstanceRequest,
    PreparedInstance,
    UserNamespaceManager,
    Volume,
    register_opts,
)
from lxc_userns.config.settings import Settings
from lxc_userns.instances.verified import Verified
from lxc_userns.libvirtd.client import Guests
from lxc_userns.services import Services
from tests.functional.guest import loop_devices
from tests.functional.lease_host import OWNER, WHOLE, mounted_host_files

NAME, UUID = "verbs", "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
BASE = 1_900_000_000
DOMAIN = f"""\
<domain type='lxc'><name>{NAME}</name><memory unit='MiB'>128</memory>
<os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
<devices><console type='pty'/></devices></domain>
"""


@dataclass
class InstanceHost:
    """Host of one instance.

    :param path: directory of this host alone.
    :param connection: a libvirtd.
    :param verified: a start of the instance that was verified.
    :param asked: what each request has besides.
    """

    path: Path
    connection: libvirt.virConnect
    conf: cfg.ConfigOpts = field(default_factory=cfg.ConfigOpts)
    verified: Verified | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    _managers: dict[int, UserNamespaceManager] = field(default_factory=dict)

    @property
    def manager(self) -> UserNamespaceManager:
        """The manager of this process."""
        return self._managers.setdefault(
            os.getpid(), UserNamespaceManager(self.conf)
        )

    @property
    def services(self) -> Services:
        """Services as they are configured."""
        return Services(Settings.from_conf(self.conf), Guests())

    @property
    def rootfs(self) -> Path:
        """Directory of the root filesystem."""
        return self.path / "closed/rootfs"

    def request(self, **changes: Any) -> InstanceRequest:
        """Ask for the instance."""
        values: dict[str, Any] = {
            "name": NAME,
            "uuid": UUID,
            "rootfs": str(self.rootfs),
            "hostname": "verbs.example",
            "volumes": (Volume(str(self.path / "closed/data"), "/data"),),
        }
        return InstanceRequest(**{**values, **self.asked, **changes})

    def share_id_maps(self) -> None:
        """Let all instances share ID maps, of the same IDs as the lease."""
        self.conf.clear_override("subid_owner", "lxc_userns")
        for option in ("uid_maps", "gid_maps"):
            self.conf.set_override(option, [f"0:{BASE}:{WHOLE}"], "libvirt")

    def define(self, prepared: PreparedInstance) -> None:
        """Define the domain of the instance."""
        self.connection.defineXML(prepared.apply_to(DOMAIN))

    def undefine(self) -> None:
        """Destroy and undefine the domain, if there is one."""
        for domain in self.connection.listAllDomains():
            if domain.name() == NAME:
                if domain.isActive():
                    domain.destroy()
                domain.undefine()

    def start(self) -> None:
        """Start the domain."""
        self.connection.lookupByName(NAME).create()

    def stop(self) -> None:
        """Stop the domain."""
        self.connection.lookupByName(NAME).destroy()

    def state(self) -> str:
        """Find the state of the instance by what there is of it."""
        record = self._record()
        if record is None:
            leased = self.services.allocator.find(NAME) is not None
            return "allocated" if leased else "unknown"
        if any(
            each.name() == NAME and each.isActive()
            for each in self.connection.listAllDomains()
        ):
            return "running"
        if not self.mounts():
            return "unmounted"
        return "prepared" if record["verified"] is None else "stopped"

    def everything(self) -> dict[str, object]:
        """Find all that there is of the instance, to be compared.

        Not inode numbers and times, which differ without any difference.
        """
        record = self._record()
        if record is not None:
            for key in ("ready", "identities", "verified"):
                record[key] = bool(record[key])
            # A note that spares looking again, of trees that have been
            # closed to others for a while.
            del record["empty"]
        with self.services.allocator.leases.read() as leases:
            ranges = [(each.instance, each.uuid, each.uid_start, each.count)
                      for each in leases.all()]  # fmt: skip
        return {
            "record": record,
            "leases": ranges,
            "mounts": self.mounts(),
            "loop devices": len(loop_devices(self.path)),
            "run": _look(self.path / "run"),
            "state": {
                name: each
                for name, each in _look(self.path / "state").items()
                # Counts of what went wrong, also half written, and a journal
                # that comes and goes; leases are compared above.
                if not name.startswith(("failures.", ".failures.", "leases."))
            },
            "files": _look(self.path / "closed"),
        }

    def mounts(self) -> list[tuple[str, ...]]:
        """Find the views: where, of what, and how."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        fields = [line.split(" - ") for line in lines]
        return sorted(
            (*left.split()[3:6], right.split()[0])
            for left, right in fields
            if left.split()[4].startswith(f"{self.path}/run/")
        )

    def _record(self) -> dict[str, Any] | None:
        path = self.path / f"state/instances/{NAME}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def _look(top: Path) -> dict[str, tuple[int, int, int]]:
    """Find owners and modes of a tree, not of what is mounted in it."""
    found: dict[str, tuple[int, int, int]] = {}
    if not top.exists():
        return found
    device = top.stat().st_dev
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(directory, name)
            status = path.lstat()
            relative = str(path.relative_to(top))
            found[relative] = status.st_mode, status.st_uid, status.st_gid
            if relative.endswith(("etc/hostname", "etc/machine-id")):
                text = path.read_text()
                found[f"{relative}: {text}"] = 0, 0, 0
        directories[:] = [
            each
            for each in directories
            if not os.path.ismount(Path(directory, each))
            and Path(directory, each).lstat().st_dev == device
        ]
    return found


@contextmanager
def made(path: Path, connection: libvirt.virConnect) -> Iterator[InstanceHost]:
    """Make a host with a pool of one range, so that each lease is the same."""
    host = InstanceHost(path, connection)
    register_opts(host.conf)
    host.conf([], default_config_files=[], default_config_dirs=[])
    for name, value in (
        ("subid_owner", OWNER),
        ("state_path", str(path / "state")),
        ("run_path", str(path / "run")),
    ):
        host.conf.set_override(name, value, "lxc_userns")
    (path / "closed").mkdir(mode=0o700)
    (path / "closed/data").mkdir()
    with mounted_host_files(path / "etc") as files:
        files.give_ranges(1, WHOLE)
        try:
            yield host
        finally:
            host.undefine()
            host.manager.release(NAME)
