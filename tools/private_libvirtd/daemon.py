# SPDX-License-Identifier: Apache-2.0
"""Start libvirtd in directories of its own."""

import subprocess
import time
from pathlib import Path

from private_libvirtd.plan import PrivateLibvirtdError

DRIVER = "libvirt_driver_lxc.so"
DRIVER_DIRECTORIES = [
    "usr/lib/*/libvirt/connection-driver",
    "usr/lib*/libvirt/connection-driver",
]
RUN = Path("/run/libvirt")
LOG = Path("/var/log/libvirt/libvirtd.log")
ANSWERS_WITHIN = 60.0
# All containers inherit the session keyring of libvirtd, which is that of
# whoever runs this. It cannot be given back (session-keyring(7)): there is
# a new one, in which no one who has it may do anything.
CLOSED_KEYRING = (
    *("keyctl", "session", "-"),
    *("sh", "-ec", 'keyctl setperm @s 0; exec "$@"', "sh"),
)


def start() -> subprocess.Popen[bytes]:
    """Start libvirtd and wait until it answers."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LIBVIRT_DRIVER_DIR": str(choose_driver()),
        # By itself it would write to the host's journal.
        "LIBVIRT_LOG_OUTPUTS": "2:stderr",
    }
    with LOG.open("wb") as log:
        process = subprocess.Popen(
            [
                *CLOSED_KEYRING,
                *("libvirtd", "--pid-file", str(RUN / "libvirtd.pid")),
            ],
            env=environment,
            cwd="/",
            umask=0o022,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    give_up = time.monotonic() + ANSWERS_WITHIN
    while not answers():
        if process.poll() is not None:
            raise PrivateLibvirtdError(
                f"libvirtd ended by itself; {log_tail()}"
            )
        if time.monotonic() > give_up:
            raise PrivateLibvirtdError(
                f"libvirtd did not answer in {ANSWERS_WITHIN:.0f} seconds; "
                + log_tail()
            )
        time.sleep(0.02)
    return process


def choose_driver() -> Path:
    """Make a directory with the one driver that is wanted.

    Others start programs, load firewall rules, make directories of the host.
    """
    for pattern in DRIVER_DIRECTORIES:
        for directory in Path("/").glob(pattern):
            if (directory / DRIVER).exists():
                chosen = RUN / "drivers"
                chosen.mkdir()
                (chosen / DRIVER).symlink_to(directory / DRIVER)
                return chosen
    raise PrivateLibvirtdError("not installed: libvirt's LXC driver")


def answers() -> bool:
    """Tell whether a client gets an answer from libvirtd."""
    if not (RUN / "libvirt-sock").exists():
        return False
    try:
        subprocess.run(
            ["virsh", "--quiet", "--connect", "lxc:///", "version"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=5,
        )
    except subprocess.SubprocessError:
        return False
    return True


def log_tail() -> str:
    """Quote the end of libvirtd's log."""
    lines = LOG.read_text(errors="replace").splitlines()[-20:]
    return "\n  ".join(["its log ends with:", *lines])
