# SPDX-License-Identifier: Apache-2.0
"""Archive of a checkout, as the guest gets it."""

import os
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

from platforms.errors import PlatformError

#: Directory of the checkout in the archive.
CHECKOUT = "checkout"
#: Script in the archive that runs the command.
JOB = "job"


def find_checkout(directory: Path) -> Path:
    """Return the root of the checkout of the project above a directory.

    :raises PlatformError: if the directory is in none.
    """
    for path in (directory, *directory.parents):
        if (path / "src/lxc_userns").is_dir():
            return path
    raise PlatformError(
        f"{directory}: not in a checkout of lxc-userns; change into one"
    )


#: Debian packages as "make deb" leaves them.
PACKAGES = "dist/deb/*.deb"


def list_files(checkout: Path) -> Iterator[Path]:
    """List a checkout's files as they are now, but what git ignores.

    Debian packages that were built of the checkout are among them.

    :raises PlatformError: if git cannot tell.
    """
    argv = ["git", "-C", str(checkout), "ls-files", "-z"]
    argv += ["--cached", "--others", "--exclude-standard"]
    result = subprocess.run(argv, capture_output=True, check=False)
    if result.returncode:
        reason = os.fsdecode(result.stderr).strip()
        raise PlatformError(f"{checkout}: cannot list its files: {reason}")
    for name in sorted(set(result.stdout.split(b"\0"))):
        path = checkout / os.fsdecode(name)
        # Deleted but not staged, or a repository within.
        if name and (path.is_symlink() or path.is_file()):
            yield path
    yield from sorted(checkout.glob(PACKAGES))


def write_archive(
    checkout: Path, file: IO[bytes], command: list[str] | None = None
) -> None:
    """Write a tar archive of a checkout, all of it root's.

    :param command: its arguments; a script that runs them goes with it.
    """
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in list_files(checkout):
            name = f"{CHECKOUT}/{path.relative_to(checkout)}"
            archive.add(path, name, filter=as_root)
        if command is not None:
            script = f"#!/bin/sh\nexec {shlex.join(command)}\n".encode()
            member = tarfile.TarInfo(JOB)
            member.mode, member.size = 0o755, len(script)
            archive.addfile(member, BytesIO(script))
    file.flush()


def as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make a member of an archive root's."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
