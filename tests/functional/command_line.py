# SPDX-License-Identifier: Apache-2.0
"""The installed program, as a user calls it."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oslo_config import cfg

from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux.processes import children
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.services import Services
from tests.functional import fork_server
from tests.waiting import wait_for

PROGRAM = Path(sys.executable).with_name("lxc-userns")
LONGEST = 300.0
#: The caller's, which the program gets; what tests make is as they say.
UMASK = os.umask(0o022)

BASE = 1_900_000_000
COUNT = 65536
ID_MAP = f"0:{BASE}:{COUNT}"


@dataclass(frozen=True)
class Result:
    """Result of a call."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return what it printed, after it went well."""
        assert (self.code, self.err) == (0, ""), self
        return json.loads(self.out)

    def error(self, code: int = 1) -> str:
        """Its one line of error, after it failed with this exit code."""
        assert self.code == code, self
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


def call(
    *arguments: str | Path,
    prefix: Sequence[str] = (),
    program: Path = PROGRAM,
    **options: Any,
) -> Result:
    """Call the program, most often by forking what has imported it."""
    argv = [*prefix, str(program), *map(str, arguments)]
    done: subprocess.CompletedProcess[bytes]
    is_ours = not prefix and not options and program == PROGRAM
    if is_ours and fork_server.can_serve():
        done = fork_server.run(argv, umask=UMASK, timeout=LONGEST)
    else:
        done = subprocess.run(
            argv,
            capture_output=True,
            timeout=LONGEST,
            umask=UMASK,
            **options,
        )
    return Result(
        done.returncode,
        done.stdout.decode(errors="surrogateescape"),
        done.stderr.decode(errors="surrogateescape"),
    )


def call_copied(told: str) -> Result:
    """Run the command that a message tells to run, copied from it."""
    found = re.search(" run: (lxc-userns .*)", told)
    assert found, told
    done = subprocess.run(
        ["bash", "-c", found[1]],
        env={**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def run_on_a_terminal(
    argv: Sequence[str | Path],
    *streams: str,
    env: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Run a program to its end on a terminal of 80 columns.

    :param streams: those of it that are the terminal; others go nowhere.
    :returns: its exit code, and what it has shown.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 25, 80, 0, 0))
    ends = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    ends |= dict.fromkeys(streams, terminal)
    shown = b""
    with subprocess.Popen(
        argv, stdout=ends["stdout"], stderr=ends["stderr"], env=env
    ) as process:
        os.close(terminal)
        with suppress(OSError):  # EIO: no one has its other end.
            while more := os.read(controller, 1 << 16):
                shown += more
    os.close(controller)
    return process.returncode, shown


@dataclass(frozen=True)
class CommandLine:
    """The program with a configuration of its own."""

    config: Path
    state: Path
    run: Path
    program: Path = PROGRAM

    @classmethod
    def make(
        cls, directory: Path, run: Path, extra: str = ""
    ) -> "CommandLine":
        """Write a configuration with ID maps."""
        made = cls(directory / "test.conf", directory / "state", run)
        maps = f"[libvirt]\nuid_maps = {ID_MAP}\ngid_maps = {ID_MAP}\n"
        made.configure(extra, maps)
        return made

    def configure(self, extra: str, before: str = "") -> None:
        """Write the configuration anew.

        :param extra: lines for ``[lxc_userns]``.
        :param before: sections before that one.
        """
        self.config.write_text(
            f"{before}[lxc_userns]\nstate_path = {self.state}\n"
            f"run_path = {self.run}\n{extra}"
        )

    def manager(self) -> UserNamespaceManager:
        """Make the manager behind the program, as it is configured now."""
        return UserNamespaceManager(self._conf())

    def services(self) -> Services:
        """Make the services behind the program."""
        return Services(Settings.from_conf(self._conf()), Guests())

    def _conf(self) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        register_opts(conf)
        conf([], default_config_files=[str(self.config)])
        return conf

    def __call__(self, *arguments: str | Path, **options: Any) -> Result:
        """Call the program."""
        options.setdefault("program", self.program)
        return call("--config-file", self.config, *arguments, **options)

    def json(self, *arguments: str | Path) -> Any:
        """Call the program for JSON, which goes well."""
        return self(*arguments, "-f", "json").json()

    def run_to_reboot(self, name: str, *arguments: str | Path) -> Any:
        """Run a container that can reboot itself.

        Now and then libvirt 9.0 hangs up on a container as soon as it has
        started it, and is not there to start it again when it reboots. Then
        another one has to do.
        """
        log = Path(f"/var/log/libvirt/lxc/{name}.log")
        for _ in range(5):
            shown = self.json("container", "run", name, *arguments)
            last = log.read_text(errors="replace").rpartition("starting up")
            if "End of file while reading data" not in last[2]:
                return shown
            assert self("container", "destroy", name).code == 0
        raise AssertionError("libvirt hangs up on every container")

    def run_to_end(
        self,
        name: str,
        *arguments: str | Path,
        again: Callable[[], object] = lambda: None,
    ) -> Result:
        """Run a container whose first process ends at once.

        On a busy machine it is looked at now and then before that has ended,
        and then all is well. Then another one has to do.

        :param again: called before that one.
        """
        for _ in range(5):
            done = self("container", "run", name, *arguments)
            if done.code:
                return done
            assert self("container", "destroy", name).code == 0
            again()
        raise AssertionError("each was looked at before it had ended")

    def reboot_inside(self, name: str, init_pid: int) -> Any:
        """Let busybox's init reboot, and return what there is then."""
        # It obeys signals once it has started what its inittab says.
        wait_for(lambda: [*children(init_pid)])
        os.kill(init_pid, signal.SIGTERM)

        def look() -> Any:
            shown = self.json("container", "show", name)
            # In between it has no first process.
            return shown["init_pid"] not in (None, init_pid) and shown

        return wait_for(look)

    def mounts(self) -> list[str]:
        """Mount points of views."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines]
        return [each for each in points if each.startswith(f"{self.run}/")]
