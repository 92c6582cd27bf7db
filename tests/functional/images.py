# SPDX-License-Identifier: Apache-2.0
"""Root file systems for containers: busybox and Debian."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

# Debian's default for those who run another system.
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# The first of these of which the keyring has the key: Ubuntu 22.04's is old.
SUITES = ("bookworm", "bullseye")
SUITE_KEY = "/usr/share/keyrings/debian-archive-{}-automatic.gpg"
PACKAGES = ["acl", "iputils-ping", "libcap2-bin", "login", "passwd"]
INITS = {
    "sysvinit": ["sysvinit-core"],
    "systemd": ["systemd-sysv"],
    "old-systemd": ["systemd-sysv"],
}
#: Of a suite that mirrors may have no more, nor the host its key.
OLD = {"old-systemd": "bullseye"}
APT_HELPER = "/usr/lib/apt/apt-helper"
NO_NETWORK = re.compile("resolv|connect|timed out", re.IGNORECASE)
LONGEST_BOOTSTRAP = 900.0

TAR = ["tar", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*"]

#: Types of partitions: a root filesystem, one of Linux, the firmware's.
ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
EFI = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
#: Where the second partition begins, in bytes.
PARTITION = 2 << 20
TABLE = """\
label: {label}
start=2048, size=2048, type={other}
start={start}, size={size}, type={type}
"""

FILES = {
    "etc/passwd": "root::0:0:root:/root:/bin/sh\n"
    "alice::1000:1000:Alice:/home/alice:/bin/sh\n"
    "nobody:*:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nalice:x:1000:\nnogroup:x:65534:\n",
    # busybox init: ctrlaltdel is what a reboot from outside sends.
    "etc/inittab": "::sysinit:/bin/hostname -F /etc/hostname\n"
    "console::askfirst:-/bin/sh\n"
    "::ctrlaltdel:/sbin/reboot\n"
    "::restart:/sbin/init\n",
    "etc/hostname": "busybox\n",
}


def make_busybox(path: Path) -> None:
    """Make a root file system of busybox; its owner is root throughout."""
    for name in ("bin", "sbin", "etc", "dev", "proc", "sys", "root"):
        (path / name).mkdir(mode=0o755, parents=True)
        (path / name).chmod(0o755)
    path.chmod(0o755)
    (path / "tmp").mkdir()
    (path / "tmp").chmod(0o1777)
    for name, text in FILES.items():
        (path / name).write_text(text)
        (path / name).chmod(0o644)

    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is not installed"
    shutil.copy(busybox, path / "bin/busybox")
    listed = subprocess.check_output([busybox, "--list"], text=True)
    for name in set(listed.split()) - {"busybox", "su"}:
        place = "sbin" if name in ("init", "reboot", "halt") else "bin"
        (path / place / name).symlink_to("/bin/busybox")
    # A program of its own, lest every program be set-user-ID.
    shutil.copy(busybox, path / "bin/su")
    (path / "bin/su").chmod(0o4755)

    alice = path / "home/alice"
    alice.mkdir(parents=True)
    os.chown(alice, 1000, 1000)


def make_image(
    kind: str, path: Path, size: int, *options: str, root: Path | None = None
) -> Path:
    """Make a raw disk image, without a partition table.

    :param kind: ``ext2``, ``ext3``, ``ext4``, ``xfs`` or ``btrfs``.
    :param size: in MiB.
    :param options: for mkfs.
    :param root: directory to fill it with; None: it is empty.
    """
    with path.open("wb") as stream:
        stream.truncate(size << 20)
    argv = [f"mkfs.{kind}", "-q", *options]
    if root is not None and kind.startswith("ext"):
        argv += ["-d", str(root)]
    run = partial(subprocess.run, check=True, timeout=300)
    run([*argv, str(path)], stdout=subprocess.DEVNULL)
    if root is not None and not kind.startswith("ext"):
        point = path.with_suffix(".mnt")
        point.mkdir()
        run(["mount", "-o", "loop", path, point])
        run(["cp", "-a", f"{root}/.", point])
        run(["umount", point])
        point.rmdir()
    return path


def make_partitioned(
    disk: Path,
    filesystem: Path,
    label: str = "gpt",
    type: str = ROOT,
    other: str = EFI,
) -> None:
    """Make a disk image with a filesystem in the second partition of two.

    :param label: ``gpt`` or ``dos``.
    :param type: type of the second one.
    :param other: type of the first one.
    """
    size = filesystem.stat().st_size
    with disk.open("wb") as stream:
        stream.truncate(PARTITION + size + (4 << 20))
    table = TABLE.format(
        label=label,
        other=other,
        start=PARTITION // 512,
        size=size // 512,
        type=type,
    )
    argv = ["sfdisk", "--quiet", str(disk)]
    subprocess.run(argv, input=table, text=True, check=True)
    argv = ["dd", f"if={filesystem}", f"of={disk}", "bs=1M"]
    argv += [f"seek={PARTITION >> 20}", "conv=notrunc,sparse", "status=none"]
    subprocess.run(argv, check=True)


def unpack_debian(init: str, path: Path) -> Path:
    """Unpack a Debian system with the given init system to a directory."""
    archive = make_debian(init)
    path.mkdir(mode=0o755, parents=True)
    argv = [*TAR, "--extract", "--preserve-permissions"]
    subprocess.run([*argv, "--file", archive, "-C", path], check=True)
    return path


def make_debian(init: str) -> Path:
    """Find the image of a Debian system, or make it.

    :returns: an archive in the user's cache directory.
    """
    mirror, suite = choose_mirror()
    suite = OLD.get(init, suite)
    arch = subprocess.check_output(
        ["dpkg", "--print-architecture"], text=True
    ).strip()
    packages = sorted([*PACKAGES, *INITS[init]])
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    cache = Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache",
        "lxc-userns",
    )
    archive = cache / f"debian-{suite}-{arch}-{key}.tar.zst"
    with locked(cache):
        if not archive.exists():
            bootstrap(mirror, suite, packages, archive)
    return archive


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory, which is made if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def choose_mirror() -> tuple[str, str]:
    """Find the mirror and the release of the host, if that is a Debian."""
    listed = subprocess.check_output(
        ["apt-get", "indextargets", "Created-By: Packages", "--format",
         "$(REPO_URI) $(RELEASE) $(COMPONENT)"],
        text=True,
    )  # fmt: skip
    release = Path("/etc/os-release").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in release if "=" in line)
    codename = settings.get("VERSION_CODENAME", "").strip('"')
    if settings.get("ID") == "debian":
        for line in listed.splitlines():
            mirror, suite, component = line.rsplit(" ", 2)
            if (suite, component) == (codename, "main"):
                return mirror.rstrip("/"), suite
    known = [each for each in SUITES if Path(SUITE_KEY.format(each)).exists()]
    return MIRROR, known[0] if known else SUITES[0]


def bootstrap(
    mirror: str, suite: str, packages: list[str], archive: Path
) -> None:
    """Make the archive of a minimal Debian system."""
    is_old = suite in OLD.values()
    if is_old and not Path(SUITE_KEY.format(suite)).exists():
        pytest.skip(f"missing on this machine: key of {suite}")
    require_network(f"{mirror}/dists/{suite}/InRelease", is_old=is_old)
    # Not below /tmp, which may be small and forbid device nodes.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        root = Path(directory, "root")
        argv = ["debootstrap", "--variant=minbase", f"--keyring={KEYRING}"]
        argv += [f"--include={','.join(packages)}", suite, str(root), mirror]
        with Path(directory, "log").open("w+") as log:
            result = subprocess.run(
                argv,
                env=os.environ | proxies(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=LONGEST_BOOTSTRAP,
            )
            log.seek(0)
            assert result.returncode == 0, log.read()[-2000:]
        shutil.rmtree(root / "var/cache/apt")
        shutil.rmtree(root / "var/lib/apt/lists")
        partial = archive.with_suffix(".partial")
        argv = [*TAR, "--create", "--zstd", "--file", str(partial)]
        subprocess.run([*argv, "-C", str(root), "."], check=True)
        partial.rename(archive)


def require_network(url: str, *, is_old: bool) -> None:
    """Skip the test if nothing answers where a file should come from.

    :param is_old: whether to skip it as well if the file is not there.
    :param url: a file, for apt's own downloader, which knows its proxy.
    """
    with tempfile.TemporaryDirectory() as directory:
        result = subprocess.run(
            [APT_HELPER, "download-file", url, f"{directory}/file"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
    if result.returncode and NO_NETWORK.search(result.stdout):
        pytest.skip(f"missing on this machine: network (no way to {url})")
    if result.returncode and is_old:
        pytest.skip(f"missing on this machine: {url}")
    assert result.returncode == 0, result.stdout


def proxies() -> dict[str, str]:
    """Translate apt's proxy settings to what debootstrap understands."""
    found = {}
    for scheme in ("http", "https"):
        option = f"Acquire::{scheme}::Proxy"
        shell = subprocess.check_output(
            ["apt-config", "shell", "proxy", option], text=True
        )
        value = shell.partition("=")[2].strip().strip("'")
        if value and value != "DIRECT":
            found[f"{scheme}_proxy"] = value
    return found
