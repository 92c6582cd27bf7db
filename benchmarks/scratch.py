# SPDX-License-Identifier: Apache-2.0
"""A place for all that the benchmarks make, which goes whatever happens."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oslo_config.cfg import ConfigOpts

from benchmarks.measure import run
from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.libvirtd.client import Guests
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.services import Services

#: What all is shifted for: guest, host, count of both maps.
ENTRY = GUEST, HOST, COUNT = 0, 100000, 65536
ID_MAP = f"{GUEST}:{HOST}:{COUNT}"
ID_MAPS = IdMaps(IdMap.parse(ID_MAP), IdMap.parse(ID_MAP))


class Scratch:
    """A directory to work in, through which the users of containers pass.

    Signals that end a program do so after all in it is removed.
    """

    def __init__(self, parent: Path) -> None:
        made = tempfile.mkdtemp(prefix="lxc-userns-bench-", dir=parent)
        self.path = Path(made).resolve()
        self.path.chmod(0o711)
        #: For trees: only root can reach it.
        self.closed = self.path / "closed"
        self.closed.mkdir(mode=0o700)

    def state_path(self, name: str) -> Path:
        """For what one contender keeps."""
        return self.closed / f"state-{name}"

    def view(self, name: str) -> Path:
        """Make a directory for a view of one contender."""
        path = self.path / name.replace(" ", "-")
        path.mkdir()
        return path

    def configure(self, name: str) -> str:
        """Write a configuration file."""
        path = self.closed / f"{name}.conf"
        path.write_text(
            f"[libvirt]\nuid_maps = {ID_MAP}\ngid_maps = {ID_MAP}\n"
            f"[lxc_userns]\nstate_path = {self.state_path(name)}\n"
            f"run_path = {self.path / name}\n"
        )
        return str(path)

    def make_manager(self, name: str) -> tuple[UserNamespaceManager, Services]:
        """Make a manager with a configuration of its own."""
        conf = ConfigOpts()
        register_opts(conf)
        conf([], default_config_files=[self.configure(name)])
        services = Services(Settings.from_conf(conf), Guests(is_silent=True))
        return UserNamespaceManager(conf, services.guests), services


@contextmanager
def made(parent: Path) -> Iterator[Scratch]:
    """Make a place in a directory, and remove it with all that is in it."""
    ending = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    for number in ending:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    scratch = Scratch(parent)
    try:
        yield scratch
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_IGN)
        # Not by the package, which is what is being tried; the last first.
        targets = run(["findmnt", "--noheadings", "--list", "-o", "TARGET"])
        for target in reversed(targets.splitlines()):
            if Path(target).is_relative_to(scratch.path):
                # Lazily: a process that was killed may take a moment to go.
                subprocess.run(["umount", "--lazy", target], check=True)
        remove(scratch.path)


def remove(path: Path) -> None:
    """Remove a tree; nothing that is mounted in it is touched."""
    run(["rm", "-rf", "--one-file-system", str(path)])


def disk_bytes(*paths: Path) -> int:
    """Return the bytes that trees take on disk, each inode once."""
    argv = ["du", "--block-size=1", "--summarize", "--total"]
    return int(run([*argv, *map(str, paths)]).splitlines()[-1].split()[0])
