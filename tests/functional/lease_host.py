# SPDX-License-Identifier: Apache-2.0
"""A host with users and subordinate IDs of our choice, and who runs there."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.functional.command_line import BASE, CommandLine, Result

OWNER = "lxc-userns"
#: IDs of a lease where no container is run with it.
SIZE = 1000
#: What a container expects.
WHOLE = 65536
FILES = ("subuid", "subgid", "passwd", "group", "nsswitch.conf")
#: Users and groups are those of the files, and no others.
NSSWITCH = "passwd: files\ngroup: files\n"
# Where libvirt's sockets are out of sight.
WITHOUT_LIBVIRT = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
    'mount -t tmpfs none /run; exec "$@"',
    "sh",
)


def nth(number: int, size: int = SIZE) -> int:
    """Return the start of a numbered range of a pool from ``BASE`` on."""
    return BASE + number * size


@dataclass(frozen=True)
class HostFiles:
    """Copies of files of ``/etc`` that are mounted over them."""

    directory: Path

    def __getitem__(self, name: str) -> Path:
        """The copy, to be changed in place."""
        assert name in FILES
        return self.directory / name

    def append(self, name: str, *lines: str) -> None:
        """Add lines to a file."""
        with self[name].open("a") as stream:
            stream.writelines(f"{line}\n" for line in lines)

    def give(self, *lines: str) -> None:
        """Make these all lines of ``/etc/subuid`` and ``/etc/subgid``."""
        text = "".join(f"{line}\n" for line in lines)
        for name in ("subuid", "subgid"):
            self[name].write_text(text)

    def give_ranges(self, number: int, size: int = SIZE) -> None:
        """Make the pool so many ranges from ``BASE`` on."""
        self.give(f"{OWNER}:{BASE}:{number * size}")


@contextmanager
def mounted_host_files(directory: Path) -> Iterator[HostFiles]:
    """Mount copies over files of ``/etc``; no one has subordinate IDs.

    Only where the mount namespace is our own.
    """
    directory.mkdir()
    files = HostFiles(directory)
    with ExitStack() as stack:
        for name in FILES:
            files[name].write_bytes(Path("/etc", name).read_bytes())
            argv = ["mount", "--bind", str(files[name]), f"/etc/{name}"]
            subprocess.run(argv, check=True)
            umount = ["umount", f"/etc/{name}"]
            stack.callback(subprocess.run, umount, check=True)
        files.give()
        files["nsswitch.conf"].write_text(NSSWITCH)
        yield files


def make_command_line(
    directory: Path, run: Path, size: int = SIZE
) -> CommandLine:
    """The program with a pool in its configuration."""
    made = CommandLine(directory / "test.conf", directory / "state", run)
    configure(made, size=size)
    return made


def configure(
    cli: CommandLine, *, size: int = SIZE, owner: str = OWNER, extra: str = ""
) -> None:
    """Write the configuration anew."""
    cli.configure(f"subid_owner = {owner}\nrange_size = {size}\n{extra}")


def at_once(
    cli: CommandLine, *commands: str | Sequence[str], **options: Any
) -> list[Result]:
    """Call the program several times at the same time.

    :param commands: arguments, or a text with blanks between them.
    """

    def call(command: str | Sequence[str]) -> Result:
        argv = command.split() if isinstance(command, str) else command
        return cli(*argv, **options)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(call, commands))


def acquire(cli: CommandLine, instance: str) -> tuple[int, int]:
    """Acquire a lease, which goes well: where its IDs begin."""
    return starts(cli("lease", "acquire", instance, "-f", "json").json())


def acquire_at_once(
    cli: CommandLine, *instances: str, **options: Any
) -> tuple[list[tuple[int, int]], list[str]]:
    """Acquire leases at the same time.

    :returns: where the IDs begin of those that there were, in order; the
        errors of all others.
    """
    commands = (f"lease acquire {instance} -f json" for instance in instances)
    results = at_once(cli, *commands, **options)
    good = [each for each in results if each.code == 0]
    bad = [each for each in results if each.code != 0]
    return (
        sorted(starts(each.json()) for each in good),
        [each.error() for each in bad],
    )


def starts(lease: dict[str, Any]) -> tuple[int, int]:
    """The first user ID and the first group ID of a lease."""
    return lease["uid_start"], lease["gid_start"]


def held(cli: CommandLine) -> dict[str, tuple[int, int]]:
    """Return the starts of all leases."""
    listed = cli.json("lease", "list")
    return {lease["instance"]: starts(lease) for lease in listed}


def summary(result: Result) -> list[str]:
    """The lines below the table of ``lease list``."""
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    return [line for line in lines if line and line[0] not in "+|"]


def findings(result: Result, code: int) -> list[dict[str, str]]:
    """Return the findings of ``config check`` or ``host check``.

    Without where values are from, which is told of all options.
    """
    assert (result.code, result.err) == (code, "")
    found: list[dict[str, str]] = json.loads(result.out)
    return [each for each in found if not each["message"].startswith("from ")]


@contextmanager
def running_with(
    start: int, count: int, name: str = "cat"
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a user namespace that is made by hand.

    :param start: the first host ID that it has.
    :param count: how many it has.
    :param name: by which name its program is called.
    """
    argv = ["unshare", "--user", "bash", "-c", 'exec -a "$0" cat', name]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            # By its echo, it is in there, and cat.
            process.stdin.write(b"\n")
            assert process.stdout.read(1) == b"\n"
            for kind in ("uid", "gid"):
                file = Path(f"/proc/{process.pid}/{kind}_map")
                file.write_text(f"0 {start} {count}\n")
            yield process
        finally:
            process.kill()


def id_maps_of(pid: int) -> list[list[int]]:
    """The rows of both ID maps of a process, as the kernel shows them."""
    return [
        [*map(int, Path(f"/proc/{pid}/{kind}_map").read_text().split())]
        for kind in ("uid", "gid")
    ]


# Its container ends at once, for it obeys what libvirt sends first.
INIT = "/bin/sh -c 'trap exit TERM; sleep 1000 & wait'"


@pytest.fixture
def host_files(
    libvirt_connection: libvirt.virConnect, tmp_path: Path
) -> Iterator[HostFiles]:
    """Files of the host, ours to change."""
    with mounted_host_files(tmp_path / "etc") as files:
        yield files


@pytest.fixture
def cli(
    host_files: HostFiles, tmp_path: Path, reachable_path: Path
) -> CommandLine:
    """The program, for leases of 1000 IDs; its pool is still empty."""
    return make_command_line(tmp_path, reachable_path / "run")


@pytest.fixture
def container_cli(
    cli: CommandLine, libvirt_connection: libvirt.virConnect
) -> Iterator[CommandLine]:
    """The same for leases of 65536 IDs; no container is left at the end."""
    configure(cli, size=WHOLE)
    yield cli
    records = cli.state.glob("instances/*.json")
    commands = (f"container destroy {record.stem}" for record in records)
    assert {each.code for each in at_once(cli, *commands)} <= {0}
    for domain in libvirt_connection.listAllDomains():
        with suppress(libvirt.libvirtError):
            domain.destroy()
        with suppress(libvirt.libvirtError):
            domain.undefine()
    assert cli.mounts() == []


def both(*numbers: int, size: int = SIZE) -> list[tuple[int, int]]:
    """Return the starts of leases that have the same user and group IDs."""
    return [(nth(number, size), nth(number, size)) for number in numbers]


def run(
    cli: CommandLine, name: str, rootfs: Path, *options: str
) -> tuple[int, int]:
    """Run a container: where its IDs begin, as the kernel shows it."""
    argv = ["container", "run", name, "--rootfs", str(rootfs)]
    return start_of(cli.json(*argv, "--init", INIT, *options))


def start_of(container: dict[str, Any]) -> tuple[int, int]:
    """Return the start of a container's IDs, as the kernel shows it."""
    uid_map, gid_map = id_maps_of(container["init_pid"])
    assert uid_map[::2] == gid_map[::2] == [0, WHOLE]
    return uid_map[1], gid_map[1]
