# SPDX-License-Identifier: Apache-2.0
"""The libvirtd around the tests: ended, and started as it was."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt

from lxc_userns.libvirtd import daemon
from lxc_userns.linux.process import Process

#: libvirt starts containers once per boot (virDriverShouldAutostart).
AUTOSTARTED = Path("/run/libvirt/lxc/autostarted")
LONGEST = 60.0


@dataclass
class Libvirtd:
    """A libvirtd that can be ended and started.

    :param argv: its command line.
    :param environment: its environment.
    """

    argv: list[bytes]
    environment: dict[bytes, bytes]

    @classmethod
    def of_here(cls) -> "Libvirtd":
        """Return the one that runs."""
        place = Path(f"/proc/{find()}")
        variables = (place / "environ").read_bytes().split(b"\0")
        pairs = (each.partition(b"=") for each in variables if each)
        return cls(
            (place / "cmdline").read_bytes().rstrip(b"\0").split(b"\0"),
            {name: value for name, _, value in pairs},
        )

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal, and wait until it has ended."""
        with Process(find()) as process:
            process.send_signal(number)
            process.wait(LONGEST)

    def start(self, prefix: Sequence[str] = ()) -> None:
        """Start it, and wait until it answers.

        :param prefix: command that executes it.
        """
        process = subprocess.Popen(
            [*map(os.fsencode, prefix), *self.argv],
            env=self.environment,
            cwd="/",
            umask=0o022,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Reaped by the first process of the namespace, like the first one.
        process.returncode = 0
        deadline = time.monotonic() + LONGEST
        while True:
            with suppress(libvirt.libvirtError):
                libvirt.open("lxc:///").close()
                return
            assert time.monotonic() < deadline, shlex.join(
                map(os.fsdecode, self.argv)
            )
            time.sleep(0.05)

    @contextmanager
    def down(self, number: int = signal.SIGTERM) -> Iterator[None]:
        """End it for the body."""
        self.end(number)
        try:
            yield
        finally:
            self.start()


def find() -> int:
    found = daemon.find()
    assert found is not None
    return found.pid
