# SPDX-License-Identifier: Apache-2.0
"""Result of the processes around tar, checked where it is read.

The process that sends it is no more than the root of a container, and has
read every byte of a hostile archive: its result may be anything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lxc_userns.rootfs.archive import meter
from lxc_userns.rootfs.shifting import ipc

#: Most bytes of what tar has printed, and most characters of a reason.
_LONGEST = 1000
#: Exit codes, and signals with a minus (:manpage:`wait(2)`).
_CODES = range(-127, 256)
#: Numbers of errors (``MAX_ERRNO`` of the kernel).
_ERRORS = range(1, 4096)
#: Bytes and files of an archive.
_COUNTS = range(1 << 63)
_LIMITS = (meter.BYTES, meter.INODES, meter.FREE_BYTES, meter.FREE_INODES)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Ends of tar and of the decompressor.

    :param tar: exit code, or minus the signal's number.
    :param decompressor: the same; 0 if there is none.
    :param read: bytes that tar was given.
    :param members: lines that tar has printed: members, directories made for
        them, and the end.
    :param printed: end of what tar has printed.
    :param whiteouts: see :class:`~lxc_userns.rootfs.UnpackReport`.
    :param whiteout_files: see there.
    :param found: strings that were looked for and are in the archive.
    :param exceeded: limit or shortage that has ended both, as
        :mod:`~lxc_userns.rootfs.archive.meter` names it; None if nothing has.
    """

    tar: int
    decompressor: int
    read: int
    members: int
    printed: bytes
    whiteouts: int
    whiteout_files: int
    found: list[bytes]
    exceeded: str | None


def receive(fd: int, strings: Collection[bytes]) -> Outcome:
    """Read the result that :mod:`~lxc_userns.rootfs.archive.sandbox` sends.

    :param fd: descriptor to read from.
    :param strings: what was looked for in the archive.
    :raises OSError: if a system call of the sender has failed.
    :raises EOFError: if the sender went away.
    :raises ValueError: if this is no result.
    """
    match ipc.receive_plain(fd):
        case {"error": [int() | None as number, str(reason)]} if (
            number is None or _is_number(number, _ERRORS)
        ) and _is_line(reason):
            raise OSError(number, reason)
        case {
            "tar": int(tar),
            "decompressor": int(decompressor),
            "read": int(read),
            "members": int(members),
            "printed": bytes(printed),
            "whiteouts": int(whiteouts),
            "whiteout_files": int(whiteout_files),
            "found": list(found),
            "exceeded": str() | None as exceeded,
        } if (
            _is_number(tar, _CODES)
            and _is_number(decompressor, _CODES)
            and all(
                _is_number(count, _COUNTS)
                for count in (read, members, whiteouts, whiteout_files)
            )
            and len(printed) <= _LONGEST
            and all(each in strings for each in found)
            and exceeded in (None, *_LIMITS)
        ):
            return Outcome(
                tar,
                decompressor,
                read,
                members,
                printed,
                whiteouts,
                whiteout_files,
                found,
                exceeded,
            )
    raise ValueError("no result")


def _is_number(value: int, among: range) -> bool:
    # JSON's true is an integer to Python.
    return not isinstance(value, bool) and value in among


def _is_line(text: str) -> bool:
    return text.isprintable() and len(text) <= _LONGEST
