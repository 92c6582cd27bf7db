# SPDX-License-Identifier: Apache-2.0
"""GNU tar at work in a sandbox, and what it makes of an archive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lxc_userns.exceptions import RootfsError
from lxc_userns.rootfs.archive import (
    layer_sandbox,
    meter,
    outcome,
    sandbox,
    supervisor,
)
from lxc_userns.rootfs.archive.formats import Archive
from lxc_userns.rootfs.archive.limits import UnpackLimits
from lxc_userns.rootfs.archive.outcome import Outcome
from lxc_userns.rootfs.archive.tar_errors import TarDiagnostics

#: Told the bytes of the archive read so far.
Progress = supervisor.Progress

_OPTIONS = (
    "--extract",
    "--file=-",
    # In records of 64 KiB rather than 10 it needs a fifth less time.
    "--blocking-factor=128",
    # Names of users and groups would be looked up among the host's.
    "--numeric-owner",
    "--same-owner",
    "--preserve-permissions",
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--quoting-style=escape",
    "--warning=no-contiguous-cast",
    "--warning=no-timestamp",
    "--warning=no-unknown-keyword",
    # So that it tells whether the archive has an end.
    "--block-number",
    # A line for each member and for each directory that is made for one.
    "--verbose",
    "--verbose",
)
_LIST = (
    "--list",
    "--file=-",
    "--blocking-factor=128",
    "--quoting-style=escape",
    "--warning=no-contiguous-cast",
    "--warning=no-timestamp",
    "--warning=no-unknown-keyword",
)
#: What to say if there is too little of something where it is unpacked.
SHORTAGES = {
    meter.FREE_BYTES: "cannot be unpacked: the filesystem would be full; "
    "make room there",
    meter.FREE_INODES: "cannot be unpacked: the filesystem would have no more "
    "inodes; remove files there",
}
_NEEDED = "unpack the archive"
#: The last line that it prints then; names in others have no line breaks.
_END = re.compile(rb"\nblock [0-9]+: \*\* Block of NULs \*\*\n$")
# An ACL is in an archive in one form or both. The raw one has IDs, and the
# kernel maps them; tar --xattrs makes it. The other has names, which tar looks
# up among the host's users (for the archive of another host: at best), and
# with it comes that files without one lose the raw one.
_RAW_ACLS = ("--xattrs-include=system.posix_acl_*",)
_TEXT_ACLS = ("--acls",)
_TEXT = b" SCHILY.acl."
# With the beginning of a value (acl_ea_header of the kernel), which no file
# has that is only about them, as this one.
_RAW = tuple(
    b" SCHILY.xattr.system.posix_acl_%b=\2\0\0\0" % kind
    for kind in (b"access", b"default")
)
_STRINGS = (*_RAW, _TEXT)


@dataclass(frozen=True, slots=True)
class Destination:
    """Directory that tar works in.

    :param view: descriptor of the root of a mount, the one to write to.
    :param namespace: descriptor of the user namespace.
    :param lock: a descriptor to keep open as long as anything runs.
    """

    view: int
    namespace: int
    lock: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """Result of an extraction.

    :param devices: device nodes that were left out.
    :param owners: owners that could not be given, the first of them, as
        pairs of user and group ID.
    :param has_lost_acls: whether it has ACLs as text and in no other form,
        and they were left out.
    :param whiteouts: see :class:`~lxc_userns.rootfs.UnpackReport`.
    :param whiteout_files: see there.
    """

    devices: int
    owners: frozenset[tuple[int, int]]
    has_lost_acls: bool
    whiteouts: int = 0
    whiteout_files: int = 0

    def plus(self, other: Extraction) -> Extraction:
        """Return the sum of both."""
        return Extraction(
            self.devices + other.devices,
            self.owners | other.owners,
            self.has_lost_acls or other.has_lost_acls,
            self.whiteouts + other.whiteouts,
            self.whiteout_files + other.whiteout_files,
        )


def extract_layers(
    layers: Sequence[Archive],
    place: Destination,
    *,
    limits: UnpackLimits,
    text_acls: bool,
    progress: Progress | None,
) -> Extraction:
    """Extract the layers of an image, each over those below.

    :param layers: the lowest first.
    :param limits: what all may take.
    :raises RootfsError: as :func:`extract`.
    """
    total = Extraction(0, frozenset(), False)
    taken = Taken()
    for layer in layers:
        found = extract(
            layer,
            place,
            limits=limits,
            text_acls=text_acls,
            progress=taken.since(progress),
            taken=taken,
        )
        total = total.plus(found)
    return total


@dataclass(slots=True)
class Taken:
    """Sums of what the layers below have taken.

    :param read: bytes that tar was given.
    :param members: members, as :class:`Outcome` counts them.
    :param position: bytes of their archives.
    """

    read: int = 0
    members: int = 0
    position: int = 0

    def add(self, result: Outcome, archive: Archive) -> None:
        """Add what one more layer has taken."""
        self.read += result.read
        self.members += result.members - 1  # A line for the end.
        self.position += archive.position

    def since(self, progress: Progress | None) -> Progress | None:
        """Return what is told the position in one of several archives."""
        if progress is None:
            return None
        before = self.position
        return lambda position: progress(before + position)


def extract(
    archive: Archive,
    place: Destination,
    *,
    limits: UnpackLimits,
    text_acls: bool,
    progress: Progress | None,
    taken: Taken | None = None,
) -> Extraction:
    """Extract an archive.

    :param limits: what it may take.
    :param taken: what the layers below it have taken, if it is a layer; what
        it takes is added.
    :param text_acls: take ACLs in their text form.
    :param progress: called some ten times a second, from the calling thread.
    :raises RootfsError: if tar, or what decompresses for it, complains.
    :raises PrerequisiteError: if one of them is missing.
    """
    archive.rewind()
    diagnostics = TarDiagnostics()
    acls = _TEXT_ACLS if text_acls else _RAW_ACLS
    job = _job(archive, place, limits, acls)
    module = sandbox.__name__
    if taken is not None:
        module = layer_sandbox.__name__
        _make_layer(job, limits, taken)
    with supervisor.running(module, job) as process:
        supervisor.listen(
            process.errors, diagnostics, lambda: archive.position, progress
        )
        if diagnostics.lacks_memory:
            raise RootfsError(archive.path, _explain("memory", limits))
        if diagnostics.first is not None and not diagnostics.is_cut:
            raise RootfsError(archive.path, diagnostics.first)
        result = _receive(process.result, archive.path)
    if result.exceeded is not None:
        reason = _explain(result.exceeded, limits)
        raise RootfsError(archive.path, reason)
    _check(result, archive, diagnostics)
    if taken is not None:
        taken.add(result, archive)
    lost = _TEXT in result.found and not {*_RAW}.intersection(result.found)
    return Extraction(
        diagnostics.devices,
        frozenset(diagnostics.owners),
        lost and not text_acls,
        result.whiteouts,
        result.whiteout_files,
    )


def _job(
    archive: Archive,
    place: Destination,
    limits: UnpackLimits,
    acls: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "limits": {
            meter.BYTES: limits.max_bytes,
            # A line for the end besides.
            meter.INODES: limits.max_inodes + 1,
        },
        "memory": limits.max_memory,
        "descriptors": [
            archive.fd,
            place.view,
            place.namespace,
            place.lock,
        ],
        "archive": archive.fd,
        "view": place.view,
        "namespace": place.namespace,
        "decompressor": (
            supervisor.find_program(_NEEDED, *archive.decompressor)
            if archive.decompressor
            else None
        ),
        "tar": supervisor.find_program(_NEEDED, "tar", *_OPTIONS, *acls),
        "strings": _STRINGS,
    }


def _make_layer(
    job: dict[str, Any], limits: UnpackLimits, taken: Taken
) -> None:
    """Make of the job for an archive that for a layer."""
    find = supervisor.find_program
    job["limits"] = {
        meter.TREE: limits.max_bytes,
        meter.BYTES: limits.max_bytes - taken.read,
        meter.INODES: job["limits"][meter.INODES] - taken.members,
    }
    program, argv = job["tar"]
    job["tar"] = program, (*argv, "--exclude=.wh.*")
    job["lister"] = find(_NEEDED, "tar", *_LIST)
    job["remover"] = find(
        _NEEDED, *("rm", "--recursive", "--force", "--one-file-system", "--")
    )


def _explain(exceeded: str, limits: UnpackLimits) -> str:
    """Return why it was not unpacked to its end."""
    if exceeded == meter.BYTES:
        return limits.bytes_exceeded
    if exceeded == meter.INODES:
        return limits.inodes_exceeded
    if exceeded == "memory":
        return limits.memory_exceeded
    return SHORTAGES[exceeded]


def _receive(fd: int, path: str) -> Outcome:
    try:
        # From the first process, which is only the root of the container.
        return outcome.receive(fd, _STRINGS)
    except EOFError:
        reason = "the process that unpacks it has died"
    except ValueError:
        reason = (
            "the process that unpacks it has sent what is no result; do not "
            "use the archive"
        )
    except OSError as err:
        said = supervisor.REASONS.get(err.errno or 0, err.strerror)
        reason = f"cannot be unpacked: {said}"
    raise RootfsError(path, reason)


def _check(
    result: Outcome, archive: Archive, diagnostics: TarDiagnostics
) -> None:
    """Check that all went well, also where no one has said otherwise."""
    if diagnostics.first is not None:
        raise RootfsError(archive.path, diagnostics.first)
    # 2 also says no more than that something was not extracted.
    passed = (0, 2) if diagnostics.devices or diagnostics.owners else (0,)
    if result.tar not in passed:
        raise RootfsError(
            archive.path, f"tar {supervisor.describe_exit(result.tar)}"
        )
    if result.decompressor:
        # What there is none of cannot fail, but can be said to.
        name = archive.decompressor[0] if archive.decompressor else "nothing"
        reason = f"{name} {supervisor.describe_exit(result.decompressor)}"
        raise RootfsError(archive.path, reason)
    if result.read > diagnostics.lone_end:
        raise RootfsError(
            archive.path,
            "goes on after a lone block of zeros, where tar stops; get it "
            "again, or give one archive alone",
        )
    if not _END.search(result.printed):
        raise RootfsError(
            archive.path,
            "is cut short: no end of the archive is marked; get it again",
        )
