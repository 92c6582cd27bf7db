# SPDX-License-Identifier: Apache-2.0
"""libvirt's hook: installed, removed, known to the running daemon.

libvirt executes what is in ``/etc/libvirt/hooks/lxc.d`` at each step of a
domain's life (https://libvirt.org/hooks.html). Ours is a few lines of shell,
which leave domains alone that are not ours, and call the program for others.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from lxc_userns import commands
from lxc_userns.config import snapshot
from lxc_userns.domain import NAMESPACE
from lxc_userns.exceptions import PrerequisiteError
from lxc_userns.findings import Finding, Severity
from lxc_userns.host.check import failed, passed, warned
from lxc_userns.libvirtd import daemon, hook_client
from lxc_userns.libvirtd.daemon import Daemon
from lxc_userns.linux import safe_path
from lxc_userns.linux.inotify import Listings
from lxc_userns.linux.process import Process

DIRECTORY = Path("/etc/libvirt/hooks/lxc.d")
HOOK = DIRECTORY / "50-lxc-userns"
PROGRAM = "lxc-userns-hook"
#: Which daemon was told last to look for hooks: process ID and start time.
RELOADED = Path("/run/libvirt/lxc-userns-hook-reloaded")
#: Where AppArmor's profile of libvirtd lets it execute programs that leave
#: the profile.
_UNCONFINED = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
_MODE = 0o755
#: How often the daemon is told to look for hooks, and seconds for each.
_TRIES, _PATIENCE = 20, 0.5
_INSTALL = ("host", "hook", "install")

# Nothing is started for a step that needs nothing, and little for the domain
# of others: libvirtd answers no one meanwhile.
_SCRIPT = """\
#!/bin/sh
# lxc-userns {version}, made by: {install}
case $2 in prepare | started | reconnect | release) ;; *) exit 0 ;; esac
xml=$(cat)
case $xml in
*{marker}*) ;;
*) [ "$2" = prepare ] && grep -EqRs '^[^#]*unmarked_domains' {configuration} \\
    || exit 0 ;;
esac
printf '%s\\n' "$xml" | {command} "$@"
"""
#: Files that a program of this name reads when it is given none.
_CONFIGURATION = tuple(
    f"{place}{suffix}"
    for place in ("/root/.lxc-userns", "/root", "/etc/lxc-userns", "/etc")
    for suffix in ("/lxc-userns.conf", "/lxc-userns.conf.d")
)


def install(config_files: Sequence[str] = ()) -> Path:
    """Install the hook, and have the running daemon look for hooks.

    What others have installed beside it stays.

    :param config_files: configuration that the hook reads, instead of the
        usual files.
    :returns: path of the hook.
    :raises PrerequisiteError: if others could replace what libvirtd would
        execute as root, or its security profile forbids that, or it does not
        look for hooks.
    :raises OSError: if it cannot be written.
    """
    found = daemon.find()
    text = render(_command(found), config_files)
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Not beside it: libvirt executes all that is there.
    _write(HOOK, text, _MODE, DIRECTORY.parent)
    if found is not None:
        _make_known(found)
    return HOOK


def remove() -> bool:
    """Remove the hook, and have the running daemon look for hooks.

    :returns: whether there was one.
    :raises OSError: if it cannot be removed.
    """
    try:
        HOOK.unlink()
    except FileNotFoundError:
        return False
    with suppress(OSError):  # There may be hooks of others.
        DIRECTORY.rmdir()
    found = daemon.find()
    with suppress(ProcessLookupError):
        if found is not None:
            os.kill(found.pid, signal.SIGHUP)
    RELOADED.unlink(missing_ok=True)
    hook_client.stop()
    snapshot.forget()
    return True


def _make_known(found: Daemon) -> None:
    """Let the daemon look for hooks, and see that it does.

    It looks when it starts, and when it is told to; but not while it does
    what it was told before, or before it has started.

    :raises PrerequisiteError: if it does not.
    """
    with (
        suppress(ProcessLookupError),
        Process(found.pid) as process,
        closing(Listings(str(DIRECTORY))) as listings,
    ):
        for _ in range(_TRIES):
            process.send_signal(signal.SIGHUP)
            # Where there is this one it looks no further, until it calls it.
            is_first = os.access(DIRECTORY.with_suffix(""), os.X_OK)
            if listings.wait(_PATIENCE) or is_first:
                _write(RELOADED, _identity(process), 0o600, RELOADED.parent)
                return
        raise PrerequisiteError(
            f"{found} does not look for hooks and may not call {HOOK}; "
            f"systemctl restart {found.name}"
        )


def render(command: Sequence[str], config_files: Sequence[str]) -> str:
    """Return the text of the hook.

    :param command: program to call for a domain of ours.
    :param config_files: as for :func:`install`.
    """
    files = [os.path.abspath(each) for each in config_files]
    return _SCRIPT.format(
        version=metadata.version("lxc-userns"),
        install=_install(()),
        marker=NAMESPACE,
        configuration=shlex.join(files or _CONFIGURATION),
        command=shlex.join([*command, *commands.options(files)]),
    )


def check(found: Daemon | None) -> Finding:
    """Check whether the hook is installed, and libvirtd will call it.

    :param found: libvirt's daemon, None if it is not found.
    """
    try:
        text = HOOK.read_text(encoding="utf-8", errors="replace")
        status = HOOK.stat()
    except FileNotFoundError:
        return passed(
            "not installed; needed only for containers that virsh and the "
            f"like start ({commands.command(*_INSTALL)})"
        )
    return evaluate(text, status, _is_known(found, status))


def why_not_called(found: Daemon | None) -> str:
    """Return why libvirt would not call the hook; empty if nothing is known.

    :param found: as for :func:`check`.
    """
    if not HOOK.exists():
        install = commands.command(*_INSTALL)
        return f"libvirt's hook is not installed; run: {install}"
    finding = check(found)
    if finding.severity <= Severity.INFO:
        return ""
    return f"{finding.message}; {finding.remedy}"


def evaluate(text: str, status: os.stat_result, known: bool | None) -> Finding:
    """Return the result for a hook that is there.

    :param text: text of the file.
    :param status: status of the file.
    :param known: whether the running daemon knows it; None without a daemon.
    """
    program, files = _read(text)
    again = f"run {_install(files)}"
    if not status.st_mode & stat.S_IXUSR:
        return failed(f"{HOOK} is not executable; libvirt ignores it", again)
    if status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return failed(f"{HOOK} can be changed by others than root", again)
    version = metadata.version("lxc-userns")
    if f"# lxc-userns {version}, " not in text:
        return warned(f"{HOOK} is of another version than {version}", again)
    if program is None or not os.access(program, os.X_OK):
        return failed(f"{HOOK}: the program {program} is not there", again)
    if known is False:
        return warned(
            f"{HOOK} is newer than the running libvirtd, which may not call "
            "it",
            f"{again}, which has libvirtd look for hooks",
        )
    return passed(f"{HOOK}, of version {version}")


def _is_known(found: Daemon | None, status: os.stat_result) -> bool | None:
    if found is None:
        return None
    with suppress(OSError), Process(found.pid) as process:
        if _started_at(process) > status.st_ctime:
            return True
        return RELOADED.read_text(encoding="ascii") == _identity(process)
    return False


def _started_at(process: Process) -> float:
    """Return when a process was started, in seconds since the epoch."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + process.start_time / os.sysconf("SC_CLK_TCK")


def _identity(process: Process) -> str:
    return f"{process.pid} {process.start_time}\n"


def _read(text: str) -> tuple[str | None, list[str]]:
    """Return program and configuration files of a hook of ours."""
    last = text.rstrip("\n").rpartition("\n")[2]
    words = shlex.split(last.partition(" | ")[2])
    found = (word for word in words if os.path.basename(word) == PROGRAM)
    pairs = pairwise(words)
    files = [file for option, file in pairs if option == commands.CONFIG_FILE]
    return next(found, None), files


def _install(files: Sequence[str]) -> str:
    """Return the command that installs a hook with configuration files."""
    with commands.configured_by(files):
        return commands.command(*_INSTALL)


def _command(found: Daemon | None) -> list[str]:
    """Return how libvirtd is to call the program."""
    program = _find_program()
    # What is imported counts as much as what is executed.
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for path in (sys.executable, program, package):
        _check_safe(os.path.dirname(path))
        _check_safe(path)
    interpreter = os.path.realpath(sys.executable)
    may_call = os.path.dirname(interpreter) in _UNCONFINED
    if not may_call and found is not None and _is_confined(found):
        raise PrerequisiteError(
            f"{found} is confined by AppArmor and may not execute "
            f"{interpreter}; install lxc-userns with the Python in /usr/bin"
        )
    # Not the link: its virtual environment is found by this name. Nothing of
    # a caller's environment counts.
    return [sys.executable, "-I", program]


def _find_program() -> str:
    beside = (os.path.dirname(each) for each in (sys.argv[0], sys.executable))
    for place in (*beside, *os.get_exec_path()):
        path = os.path.abspath(os.path.join(place, PROGRAM))
        if place and os.access(path, os.X_OK):
            return path
    raise PrerequisiteError(
        f"the program {PROGRAM} is not found; install lxc-userns anew"
    )


def _check_safe(path: str) -> None:
    """Refuse what others than root could replace."""
    with safe_path.opened(os.path.realpath(path), safe_path.OWN) as fd:
        status = os.fstat(fd)
    if status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PrerequisiteError(
            f"{path} can be changed by others than root, and libvirtd would "
            f"execute it as root; chown root {path} and chmod go-w {path}"
        )


def _is_confined(found: Daemon) -> bool:
    with suppress(OSError), Process(found.pid) as process:
        return process.security_label.endswith("(enforce)")
    return False


def _write(path: Path, text: str, mode: int, place: Path) -> None:
    """Write a file that is there wholly or not at all.

    :param place: directory for it until it is whole.
    """
    new = place / f".{path.name}.new"
    fd = os.open(
        new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
    )
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)
    new.rename(path)
