# SPDX-License-Identifier: Apache-2.0
"""Log lines to systemd's journal, with fields, by its native protocol.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ and
:manpage:`systemd.journal-fields(7)`.
"""

from __future__ import annotations

import logging
import os
import sys

from lxc_userns.exceptions import InstanceError

SOCKET = "/run/systemd/journal/socket"
#: Attribute of a log record that names the instance that it is about.
INSTANCE = "lxc_userns_instance"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3),
               (logging.WARNING, 4), (logging.INFO, 6))  # fmt: skip
_DEBUG = 7
#: Characters of a message; a datagram takes more.
_LONGEST = 16 << 10


def has_stderr() -> bool:
    """Return whether standard error is a stream of the journal."""
    status = os.fstat(2)
    stream = f"{status.st_dev}:{status.st_ino}"
    return os.environ.get("JOURNAL_STREAM") == stream


class JournalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Sends log records to the journal, or to standard error if that fails.

    :param identifier: name of the program.
    :param fields: fields of every line, in lower case without the prefix
        ``LXC_USERNS_``.
    """

    def __init__(self, identifier: str, **fields: str) -> None:
        super().__init__(sys.stderr)
        self._identifier = identifier
        self._fields = fields

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; a journal that does not take it is not waited for."""
        import socket  # Loaded late: most programs do without.

        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(self._encode(record), SOCKET)
        except OSError:
            super().emit(record)

    def _encode(self, record: logging.LogRecord) -> bytes:
        fields = dict(self._fields)
        if isinstance(record.msg, InstanceError):
            fields["instance"] = record.msg.name
        elif found := getattr(record, INSTANCE, None):
            fields["instance"] = found
        if isinstance(record.msg, BaseException):
            fields["error"] = type(record.msg).__name__
        level = record.levelno
        priority = next((p for at, p in _PRIORITIES if level >= at), _DEBUG)
        named = {f"LXC_USERNS_{k.upper()}": v for k, v in fields.items()}
        named |= {
            "MESSAGE": self.format(record)[:_LONGEST],
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": record.name,
        }
        return b"".join(_field(*each) for each in named.items())


def _field(name: str, text: str) -> bytes:
    value = text.encode(errors="backslashreplace")
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    size = len(value).to_bytes(8, "little")
    return b"%s\n%s%s\n" % (name.encode(), size, value)
