# SPDX-License-Identifier: Apache-2.0
"""Guest: one boot of the virtual machine, with one job."""

import dataclasses
import os
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

from platforms.checkout import write_archive
from platforms.errors import PlatformError

from in_vm.image import Image

QEMU = "qemu-system-x86_64"
#: First line of the job's output: the guest has come so far.
BEGIN = b"begin\n"
#: Seconds in which a guest that boots says something, on a busy machine too.
SILENT_FOR = 300.0
TICK = 5.0
#: The real processor's weaknesses are not in the emulated one, and to work
#: around them takes it a while. After a panic the kernel stays where it is,
#: for a job may reboot it.
CMDLINE = "root=/dev/vda rw console=ttyS0 panic=0 mitigations=off"
#: Bytes of the disk for the results, which takes only what is written.
RESULTS_SIZE = 4 << 30
PANIC = "Kernel panic"
#: Not a tmpfs, for the results may be large.
SCRATCH = "/var/tmp"  # noqa: S108 - files without a name


class GuestDiedError(PlatformError):
    """The guest ended, or hung at its start, before the command had ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Size of a guest.

    :param memory: in MiB.
    :param processors: how many.
    """

    memory: int
    processors: int


def check_qemu() -> None:
    """Refuse to go on without qemu.

    :raises PlatformError: if it is not installed.
    """
    if not shutil.which(QEMU):
        raise PlatformError(
            f"{QEMU} is not installed; install the package qemu-system-x86"
        )


def run_job(
    image: Image,
    size: Size,
    checkout: Path,
    command: list[str],
    results: Path | None,
) -> int:
    """Boot a guest, run a command in it and wait for the guest's end.

    The command is run again after a reboot as long as it asks for one.

    :param results: directory for what the job leaves, the guest's journal and
        its console; None: not wanted.
    :returns: the command's exit status.
    :raises GuestDiedError: if the guest does not come so far.
    """
    with ExitStack() as stack:
        # Without names: nothing is left, however this process ends.
        job, returned, console = (
            stack.enter_context(tempfile.TemporaryFile(dir=SCRATCH))
            for _ in range(3)
        )
        write_archive(checkout, job, command)
        returned.truncate(RESULTS_SIZE)
        argv = qemu_command(image, size, job, returned, console)
        files = [file.fileno() for file in (job, returned, console)]
        with started(argv, files) as qemu:
            began = forward_output(qemu, console, sys.stdout.buffer)
        log = read_console(console)
        if results is not None:
            (results / "console.log").write_text(log)
        status = read_results(returned, results)
        if status is None:
            raise GuestDiedError(describe_death(log, began))
        return status


def qemu_command(
    image: Image,
    size: Size,
    job: IO[bytes],
    returned: IO[bytes],
    console: IO[bytes],
) -> list[str]:
    """Write the command line of qemu.

    A page table of five levels is what made the emulated kernel panic.
    """
    disks = [("root", str(image.disk), "snapshot=on")]
    disks += [("job", fd_path(job), "read-only=on")]
    disks += [("results", fd_path(returned), "cache=unsafe")]
    # What ends the parent's life ends that of the guest.
    argv = ["setpriv", "--pdeathsig", "KILL", QEMU, "-nodefaults"]
    argv += ["-no-user-config", "-display", "none"]
    argv += ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,svm=off"]
    argv += ["-smp", str(size.processors), "-m", str(size.memory)]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    argv += ["-append", CMDLINE]
    argv += ["-serial", f"file:{fd_path(console)}"]
    argv += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
    # By "stdio" the end of an empty input would close the output too.
    argv += ["-chardev", "file,id=job,path=/dev/fd/1"]
    argv += ["-device", "virtserialport,chardev=job,name=job"]
    for name, path, option in disks:
        argv += [
            "-drive",
            f"id={name},file={path},format=raw,if=none,{option}",
        ]
        argv += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return argv


def fd_path(file: IO[bytes]) -> str:
    """Name a file without a name for a process that inherits it."""
    return f"/dev/fd/{file.fileno()}"


@contextmanager
def started(
    argv: list[str], files: list[int]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process and see that it ends."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=files,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def forward_output(
    qemu: subprocess.Popen[bytes],
    console: IO[bytes],
    output: IO[bytes],
    tick: float = TICK,
) -> bool:
    """Copy the job's output until the guest has ended.

    :param output: where it is copied to.
    :param tick: seconds without output after which the console is looked at.
    :returns: whether the job has begun.
    """
    stream = cast(IO[bytes], qemu.stdout).fileno()
    head = b""
    while len(head) < len(BEGIN):
        if not wait_while_booting(stream, console, tick):
            return False
        data = os.read(stream, len(BEGIN) - len(head))
        if not data:
            return False
        head += data
    while True:
        if select.select([stream], [], [], tick)[0]:
            data = os.read(stream, 1 << 16)
            if not data:
                qemu.wait()
                return True
            output.write(data)
            output.flush()
        elif PANIC in read_console(console):
            return True


def wait_while_booting(stream: int, console: IO[bytes], tick: float) -> bool:
    """Wait for output of the job for as long as the console goes on.

    How long a boot takes depends on what else the machine does.

    :returns: whether there is some, or its end.
    """
    size, give_up = 0, 0.0
    while True:
        grown = os.fstat(console.fileno()).st_size
        if grown > size or not give_up:
            size, give_up = grown, time.monotonic() + SILENT_FOR
        if select.select([stream], [], [], tick)[0]:
            return True
        if time.monotonic() > give_up or PANIC in read_console(console):
            return False


def read_console(console: IO[bytes]) -> str:
    """Read what the guest's kernel has said so far."""
    fd = console.fileno()
    said = os.pread(fd, os.fstat(fd).st_size, 0)
    return said.decode(errors="replace").replace("\r", "")


def read_results(returned: IO[bytes], results: Path | None) -> int | None:
    """Read the disk that the guest wrote when the job had ended.

    :param results: where to unpack it.
    :returns: the job's exit status; None if the guest did not come so far.
    """
    returned.seek(0)
    try:
        with tarfile.open(fileobj=returned, mode="r:") as archive:
            file = archive.extractfile("status")
            status = None if file is None else int(file.read())
    except (tarfile.ReadError, KeyError):
        return None
    if results is not None:
        # tarfile of Python 3.11.2 cannot refuse what leads out of it.
        argv = ["tar", "--extract", "--no-same-owner"]
        argv += ["--directory", str(results)]
        # With a position of its own, for Python 3.14 goes back by its own.
        with open(f"/proc/self/fd/{returned.fileno()}", "rb") as disk:
            subprocess.run(argv, stdin=disk, check=True)
    return status


def describe_death(log: str, began: bool) -> str:
    """Say how a guest ended that gave no exit status."""
    when = "while the command ran" if began else "before the command began"
    panics = [line for line in log.splitlines() if PANIC in line]
    if panics:
        return f"the guest ended {when}: {panics[0].strip()}"
    tail = "\n  ".join(log.splitlines()[-10:])
    return f"the guest ended {when}; its console ends with:\n  {tail}"
