# SPDX-License-Identifier: Apache-2.0
"""Containers with ranges of their own are strangers to each other.

What keeps them apart is tried with one range for all as well, where it does
not: so each of these tests can fail.
"""

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path

import libvirt
import pytest

from tests.functional import images
from tests.functional.command_line import CommandLine
from tests.functional.guest import complete, enter, execute, inside
from tests.functional.lease_host import (
    WHOLE,
    HostFiles,
    at_once,
    id_maps_of,
    make_command_line,
    mounted_host_files,
)

pytestmark = pytest.mark.needs("containers")

HERE = Path(__file__).parent
SLEEP = "/bin/sleep 1000"
HIGHEST = 2**31 - 1


@pytest.fixture
def host_files(
    libvirt_connection: libvirt.virConnect, tmp_path: Path
) -> Iterator[HostFiles]:
    """A pool of twelve ranges."""
    with mounted_host_files(tmp_path / "etc") as files:
        files.give_ranges(12, WHOLE)
        yield files


@pytest.fixture
def cli(
    host_files: HostFiles, tmp_path: Path, reachable_path: Path
) -> Iterator[CommandLine]:
    """The program; its containers are destroyed at the end."""
    made = make_command_line(tmp_path, reachable_path / "run", WHOLE)
    yield made
    containers = made.json("container", "list")
    for each in containers:
        # libvirt would ask sleep to end, which does not listen.
        os.kill(each["init_pid"], signal.SIGKILL)
    ends = (["container", "destroy", each["name"]] for each in containers)
    assert {end.code for end in at_once(made, *ends)} <= {0}
    assert made.json("lease", "list") == []
    assert made.mounts() == []


@pytest.fixture(scope="module")
def exhaust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program ``exhaust``, for any container."""
    program = tmp_path_factory.mktemp("exhaust") / "exhaust"
    argv = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror"]
    argv += ["-o", str(program), str(HERE / "exhaust.c")]
    subprocess.run(argv, check=True, timeout=60)
    return program


@pytest.fixture
def image(tmp_path: Path, exhaust: Path) -> Path:
    """A root filesystem that all containers share."""
    path = tmp_path / "image"
    images.make_busybox(path)
    shutil.copy(exhaust, path / "bin/exhaust")
    return path


@pytest.fixture
def shared(reachable_path: Path) -> Path:
    """A directory of the host that containers may all write to."""
    path = reachable_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


def run(cli: CommandLine, name: str, image: Path, *options: str) -> int:
    """Run a container on top of the image; its first process."""
    arguments = ["container", "run", name, "--rootfs", str(image)]
    if "--init" not in options:
        arguments += ["--init", SLEEP]
    shown = cli.json(*arguments, "--strategy", "overlay", *options)
    return int(shown["init_pid"])


def with_one_range(cli: CommandLine) -> None:
    """Make all containers with the same maps."""
    text = cli.config.read_text()
    maps = "".join(
        f"{kind}_maps = 0:1900000000:{WHOLE}\n" for kind in ("uid", "gid")
    )
    text = text.replace("subid_owner = lxc-userns\n", "")
    cli.config.write_text(f"[libvirt]\n{maps}{text}")


@contextmanager
def exhausted(pid: int, kind: str) -> Iterator[int]:
    """A container that has used up all that it may.

    :returns: how many there were.
    """
    argv = [*enter(pid), "/bin/exhaust", kind, "all"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        number, error = process.stdout.readline().split()
        assert error in ("EMFILE", "EDQUOT", "EAGAIN")
        try:
            yield int(number)
        finally:
            process.stdin.close()


def one_more(pid: int, kind: str) -> str:
    """Return what a container is told that wants one more."""
    done = execute(pid, "/bin/exhaust", kind, "one")
    assert done.returncode == 0, done
    return done.stdout.strip()


def ranges(pid: int) -> list[range]:
    """Host user IDs and host group IDs of a process, from the kernel."""
    found = []
    for guest, start, count in id_maps_of(pid):
        assert (guest, count) == (0, WHOLE)
        found.append(range(start, start + count))
    return found


def test_two_at_once(cli: CommandLine, image: Path, shared: Path) -> None:
    volume = f"{shared}:/shared:none"
    one, other = (
        run(cli, name, image, "--volume", volume) for name in ("one", "other")
    )
    for mine, theirs in zip(ranges(one), ranges(other), strict=True):
        assert not set(mine) & set(theirs)
    check_files(one, other, shared, can_read=False)
    check_signals(one, other, can_signal=False)


def test_with_one_range_they_are_the_same_users(
    cli: CommandLine, image: Path, shared: Path
) -> None:
    with_one_range(cli)
    volume = f"{shared}:/shared:none"
    one, other = (
        run(cli, name, image, "--volume", volume) for name in ("one", "other")
    )
    assert ranges(one) == ranges(other)
    check_files(one, other, shared, can_read=True)
    check_signals(one, other, can_signal=True)


def check_files(one: int, other: int, shared: Path, can_read: bool) -> None:
    """A file of the root of one, where both could see it."""
    assert inside(one, "umask 077; echo secret >/shared/file").returncode == 0
    status = (shared / "file").stat()
    assert status.st_uid == ranges(one)[0].start
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert inside(one, "cat /shared/file").stdout == "secret\n"
    for argv in (
        [*enter(other), "/bin/cat", "/shared/file"],
        # As if it had broken out of all but its user namespace.
        [*enter(other, "--user"), "cat", str(shared / "file")],
    ):
        done = complete(*argv)
        assert (done.returncode == 0) == can_read
        assert ("Permission denied" in done.stderr) != can_read
    owner = inside(other, "stat -c %u /shared/file").stdout.strip()
    assert owner == ("0" if can_read else "65534")


def check_signals(one: int, other: int, can_signal: bool) -> None:
    """The root of one, broken out of its PID namespace."""
    argv = [*enter(other, "--user"), "kill", "-0"]
    done = complete(*argv, str(other))
    assert done.returncode == 0, done
    done = complete(*argv, str(one))
    assert (done.returncode == 0) == can_signal
    assert ("not permitted" in done.stderr) != can_signal


@pytest.mark.parametrize("kind", ["inotify", "keys", "processes"])
def test_what_one_uses_up_the_other_still_has(
    cli: CommandLine, image: Path, kind: str
) -> None:
    one, other = (run(cli, name, image) for name in ("one", "other"))
    with exhausted(one, kind) as number:
        assert number >= 40
        assert one_more(one, kind).startswith("0 E")
        assert one_more(other, kind) == "1 ok"


def test_keys_are_shared_by_one_range(cli: CommandLine, image: Path) -> None:
    with_one_range(cli)
    one, other = (run(cli, name, image) for name in ("one", "other"))
    with exhausted(one, "keys"):
        assert one_more(other, "keys") == "0 EDQUOT"


def limit_of(pid: int) -> int:
    """Return the limit of inotify instances of all of a container."""
    done = inside(pid, "cat /proc/sys/user/max_inotify_instances")
    return int(done.stdout)


def set_limit(pid: int, limit: int) -> None:
    """Set that, as the host's root can."""
    script = f"echo {limit} >/proc/sys/user/max_inotify_instances"
    done = complete("nsenter", f"--target={pid}", "--user", "sh", "-c", script)
    assert done.returncode == 0, done


def test_inotify_instances_are_shared_by_all_without_a_limit(
    cli: CommandLine, image: Path
) -> None:
    """Whatever their maps: the host's root has made them all."""
    most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    one, other = (run(cli, name, image) for name in ("one", "other"))
    assert limit_of(one) == limit_of(other) == most // 2
    set_limit(one, HIGHEST)
    with exhausted(one, "inotify"):
        assert one_more(other, "inotify") == "0 EMFILE"


def test_the_limit_stays(cli: CommandLine, image: Path) -> None:
    """Its root cannot raise it, whatever it does to the mounts."""
    script = image / "try"
    script.write_text(
        "#!/bin/sh\n"
        "cd /proc/sys/user\n"
        "mount -o remount,bind,rw /proc/sys && echo mounted >/said\n"
        f"echo {HIGHEST} >max_inotify_instances && echo raised >>/said\n"
        "touch /done\n"
        "exec sleep 1000\n"
    )
    script.chmod(0o755)
    pid = run(cli, "one", image, "--init", "/try")
    upper = cli.state / "private/one/overlay/upper"
    inside(pid, "until [ -e /done ]; do usleep 10000; done")
    assert (upper / "said").read_text() == "mounted\n"
    bounding = int(status_of(pid)["CapBnd"], 16)
    assert not bounding >> 24 & 1  # CAP_SYS_RESOURCE
    assert limit_of(pid) < HIGHEST


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_the_limit_is_set_again_by_verify(
    cli: CommandLine, image: Path
) -> None:
    """A reboot from inside makes a new user namespace."""
    pid = run(cli, "one", image)
    limit = limit_of(pid)
    set_limit(pid, HIGHEST)
    assert limit_of(pid) == HIGHEST
    assert cli("container", "verify", "one").code == 0
    assert limit_of(pid) == limit


def test_ten_at_once(cli: CommandLine, image: Path) -> None:
    names = [f"c{number}" for number in range(10)]
    common = ["--rootfs", str(image), "--strategy", "overlay", "--init", SLEEP]
    started = at_once(
        cli,
        *(["container", "run", name, *common, "-f", "json"] for name in names),
    )
    pids = [int(each.json()["init_pid"]) for each in started]
    found = [ranges(pid) for pid in pids]
    for one, other in combinations(found, 2):
        for mine, theirs in zip(one, other, strict=True):
            assert mine.stop <= theirs.start or theirs.stop <= mine.start
    listed = cli.json("lease", "list")
    assert {each["instance"]: each["uid_start"] for each in listed} == {
        name: uid.start for name, (uid, _) in zip(names, found, strict=True)
    }
    with ExitStack() as stack:
        for kind in ("inotify", "keys", "processes"):
            stack.enter_context(exhausted(pids[0], kind))
        for kind in ("inotify", "keys", "processes"):
            assert one_more(pids[0], kind).startswith("0 E")
            assert {one_more(pid, kind) for pid in pids[1:]} == {"1 ok"}
    for pid in pids[1:]:
        check_signals(pids[0], pid, can_signal=False)


def test_ranges_differ_by_kind(
    cli: CommandLine, host_files: HostFiles, image: Path
) -> None:
    host_files["subgid"].write_text(f"lxc-userns:1800000000:{WHOLE}\n")
    uid, gid = ranges(run(cli, "one", image))
    assert (uid.start, gid.start) == (1_900_000_000, 1_800_000_000)
    assert os.stat(cli.run / "one/root").st_gid == 1_800_000_000
    done = cli("container", "run", "two", "--rootfs", image, "--init", SLEEP)
    assert "no range of 65536 group IDs is left" in done.error()
