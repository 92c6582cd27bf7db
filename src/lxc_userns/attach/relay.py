# SPDX-License-Identifier: Apache-2.0
"""Between the caller's standard streams and those of a command."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

from lxc_userns.attach.session import Session
from lxc_userns.linux import pseudoterminals

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_CHUNK = 1 << 16
#: By which a terminal passes on a line that has not ended, or else ends its
#: input, for who reads it then.
_END_OF_INPUT = b"\x04"
_HUNG_UP = 128 + signal.SIGHUP
#: Milliseconds that a terminal has to pass on what was printed last, where
#: other processes have it open yet.
_LAST_WORDS = 50
_MOST_LAST_WORDS = 1 << 20
#: Milliseconds; a signal may come just before it is waited for something.
_LONGEST_WAIT = 1000
#: Milliseconds until the next reader of a terminal is told that its input has
#: ended.
_END_AGAIN = 500
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_NAMES = {1: "standard output", 2: "standard error"}


def terminal_size() -> tuple[int, int]:
    """Return rows and columns of the terminal that is used, or 24 by 80."""
    for fd in (0, 1, 2):
        with suppress(OSError):
            packed = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
            rows, columns, _, _ = struct.unpack("4H", packed)
            if rows and columns:
                return rows, columns
    return 24, 80


class Relay:
    """Passes on what is said, until a command has ended.

    :param session: the command.
    :param has_terminal: whether it has a terminal of its own.
    """

    def __init__(self, session: Session, *, has_terminal: bool) -> None:
        self._session = session
        self._has_terminal = has_terminal
        streams = session.streams
        self._sink: int | None = streams[0]
        #: Where to write what is read from where.
        self._sources = (
            {streams[0]: 1} if has_terminal else {streams[1]: 1, streams[2]: 2}
        )
        self._pending = b""
        self._is_in_line = False
        self._is_at_end = False
        self._given = 0
        self._has_input = _is_open(0)
        self._has_keyboard = self._has_input and os.isatty(0)
        self._is_hung_up = False
        self._failure: OSError | None = None
        os.set_blocking(streams[0], False)

    def run(self) -> int:
        """Pass on streams and signals; return the exit code of the command.

        128 + n if it was killed by signal n; 129 if the caller's terminal has
        gone, or no one reads what its own says, with which that goes.

        :raises OSError: if something that it said could not be written.
        """
        is_raw = self._has_terminal and self._has_keyboard
        with (
            _raw_terminal() if is_raw else nullcontext(),
            self._forwarded_signals(),
            self._rewound_input(self._session.streams[0]),
        ):
            if not self._has_input:
                self._end_input()
            while not (self._is_hung_up or self._has_ended()):
                pass
            has_ended = not self._is_hung_up
            if has_ended:
                self._drain()
        code = self._session.wait() if has_ended else _HUNG_UP
        if self._failure is not None:
            raise self._failure
        return code

    def _has_ended(self) -> bool:
        """Wait for something, and pass it on."""
        ready = self._poll()
        for fd in [each for each in self._sources if ready.get(each)]:
            # A terminal is a sink as well.
            if ready[fd] & _READABLE:
                self._pass_on(fd)
        state = 0 if self._sink is None else ready.get(self._sink, 0)
        if self._pending and state:
            self._write_input()
        elif state & select.POLLERR:
            self._close_input()  # No one reads it any more.
        elif self._has_input and ready.get(0):
            self._read_input()
        elif self._is_at_end and not ready:
            self._end_again()
        return bool(ready.get(self._session.pidfd))

    def _poll(self) -> dict[int, int]:
        wanted = dict.fromkeys(self._sources, select.POLLIN)
        wanted[self._session.pidfd] = select.POLLIN
        if self._sink is not None:
            out = select.POLLOUT if self._pending else 0
            wanted[self._sink] = wanted.get(self._sink, 0) | out
        if self._has_input and not self._pending:
            wanted[0] = select.POLLIN
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        wait = _END_AGAIN if self._is_at_end else _LONGEST_WAIT
        return dict(poll.poll(wait))

    def _pass_on(self, source: int, most: int = _CHUNK) -> int:
        """Pass on some output; return how much, 0 if there is none now."""
        try:
            data = os.read(source, min(most, _CHUNK))
        except BlockingIOError:
            return 0
        except OSError:  # No one has the other end of the terminal.
            data = b""
        target = self._sources[source]
        is_written = self._write_output(target, data)
        if not (data and is_written):
            del self._sources[source]
            if self._has_terminal:
                if not is_written:
                    # Else it would wait for ever to print more.
                    self._is_hung_up = True
                self._close_input()
            else:
                self._close(source)
        return len(data)

    def _write_output(self, fd: int, data: bytes) -> bool:
        """Write output; return whether that can be gone on with."""
        try:
            _write_all(fd, data)
        except OSError as err:
            # That no one reads any more is for the command to know.
            if err.errno != errno.EPIPE and not os.isatty(fd):
                self._failure = OSError(err.errno, err.strerror, _NAMES[fd])
            return False
        return True

    def _read_input(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # The terminal has gone.
            data = b""
        self._pending = data
        self._given += len(data)
        if data:
            self._is_in_line = not data.endswith(b"\n")
        else:
            self._end_input()

    def _end_input(self) -> None:
        self._has_input = False
        if not self._has_terminal:
            self._close_input()
        elif self._has_keyboard:
            self._is_hung_up = True
        else:
            self._pending = _END_OF_INPUT * (1 + self._is_in_line)
            self._is_at_end = True

    def _end_again(self) -> None:
        """Let the next who reads from the terminal find the end as well.

        Of a pipe or file each would, and one who does not waits for ever.
        """
        with suppress(OSError):  # It was hung up.
            if self._sink is not None and not (
                pseudoterminals.has_unread_input(self._sink)
            ):
                self._pending = _END_OF_INPUT

    def _write_input(self) -> None:
        if self._sink is None:
            return
        try:
            written = os.write(self._sink, self._pending)
        except BlockingIOError:
            return
        except OSError:  # No one reads it any more.
            self._close_input()
            return
        self._pending = self._pending[written:]

    def _close_input(self) -> None:
        self._has_input = False
        self._pending = b""
        if self._sink is not None and not self._has_terminal:
            self._close(self._sink)
        self._sink = None

    def _close(self, fd: int) -> None:
        self._session.streams.remove(fd)
        os.close(fd)

    def _drain(self) -> None:
        """Pass on what was printed before the end.

        Processes that the command has left behind may go on to print.
        """
        for source in [*self._sources]:
            if self._has_terminal:
                left = _MOST_LAST_WORDS
                while left > 0 and _is_readable(source, _LAST_WORDS):
                    left -= self._pass_on(source)
                    if source not in self._sources:
                        break
            else:
                left = _count_unread(source)
                while left > 0 and source in self._sources:
                    left -= self._pass_on(source, left)

    @contextmanager
    def _rewound_input(self, sink: int) -> Iterator[None]:
        """Leave what was not read of a file to who reads it next.

        So a shell's loop over the lines of a file goes on after the command.

        :param sink: the pipe to the command's standard input.
        """
        if self._has_terminal or not _is_regular(0):
            yield
            return
        # The end to write to is closed when the file ends.
        pipe = os.open(f"/proc/self/fd/{sink}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield
            # The command may have written to it.
            unread = min(len(self._pending) + _count_unread(pipe), self._given)
            with suppress(OSError):
                os.lseek(0, -unread, os.SEEK_CUR)
        finally:
            os.close(pipe)

    @contextmanager
    def _forwarded_signals(self) -> Iterator[None]:
        before = {}
        for number in _FORWARDED:
            # One that is ignored, as by nohup, goes on to be.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._forward)
        if self._has_terminal:
            before[signal.SIGWINCH] = signal.signal(
                signal.SIGWINCH, self._resize
            )
            # It may have changed since the terminal was made.
            self._resize(signal.SIGWINCH, None)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._session.send_signal(number)
        if self._has_terminal and number == signal.SIGHUP:
            self._is_hung_up = True

    def _resize(self, _number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):
            pseudoterminals.set_size(
                self._session.streams[0], *terminal_size()
            )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def _count_unread(fd: int) -> int:
    """Return how many bytes are in a pipe."""
    packed = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", packed)[0])


def _is_readable(fd: int, timeout: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout))


def _is_regular(fd: int) -> bool:
    return _is_open(fd) and stat.S_ISREG(os.fstat(fd).st_mode)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Let the caller's terminal pass on every key."""
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        with suppress(termios.error):  # It may have gone.
            termios.tcsetattr(0, termios.TCSADRAIN, before)
