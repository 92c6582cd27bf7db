# SPDX-License-Identifier: Apache-2.0
"""Containers of libvirt's hook, whatever ends in between."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from lxc_userns.host import hook
from lxc_userns.libvirtd.init import find_init
from lxc_userns.libvirtd.status import RunningDomains
from tests.functional import guest
from tests.functional.command_line import BASE, COUNT, CommandLine
from tests.functional.conftest import CommandLineFactory
from tests.functional.containers import end_domain
from tests.functional.libvirt_daemon import AUTOSTARTED, Libvirtd
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

MANY = 10
SLEEP = "/bin/sleep 1000"


@pytest.fixture
def cli(command_line: CommandLineFactory) -> Iterator[CommandLine]:
    """The program, with the hook installed."""
    made = command_line("")
    assert made("host", "hook", "install").code == 0
    yield made
    made("host", "hook", "remove")


@pytest.fixture
def libvirtd() -> Libvirtd:
    """The libvirtd around the tests."""
    return Libvirtd.of_here()


def look_up(name: str = "web") -> libvirt.virDomain:
    """Look up a domain; libvirtd may have been started anew."""
    found: list[libvirt.virDomain] = []

    def is_there() -> bool:
        # It answers before it has read the files of all domains.
        with suppress(libvirt.libvirtError):
            # The connection lives as long as the domain.
            found.append(libvirt.open("lxc:///").lookupByName(name))
        return found != []

    wait_for(is_there)
    return found[0]


def make(
    cli: CommandLine, rootfs: Path, *options: str | Path, name: str = "web"
) -> libvirt.virDomain:
    """Make a container that runs."""
    rootfs.parent.chmod(0o700)
    argv = (name, "--rootfs", rootfs, "--init", SLEEP, *options)
    cli.json("container", "run", *argv)
    return look_up(name)


def destroy(cli: CommandLine, name: str = "web") -> None:
    """End a container by libvirt alone; nothing is left mounted."""
    end_domain(look_up(name))
    wait_for(lambda: not mounts_of(cli, name))


def mounts_of(cli: CommandLine, name: str) -> list[str]:
    return [each for each in cli.mounts() if f"/{name}/" in each]


def init_of(name: str = "web") -> int | None:
    found = RunningDomains().find(name)
    init = None if found is None else find_init(found.controller)
    if init is None:
        return None
    with init:
        return int(init.pid)


def uid_map(name: str = "web") -> list[str]:
    return Path(f"/proc/{init_of(name)}/uid_map").read_text().split()


OURS = ["0", str(BASE), str(COUNT)]

#: Runs the hook, and kills it after its so many-th change.
KILLED = """\
import os, signal, sys
from lxc_userns import hook
from lxc_userns.hook import calls
from lxc_userns.linux import mount_api, mounts

left = int(sys.argv.pop(1))
CHANGES = (
    (os, "mkdir rename unlink rmdir fchmod fchown setxattr fsync write"),
    (mount_api, "attach set_attributes clone_mount"),
    (mounts, "unmount bind"),
)

def killing(function):
    def call(*arguments, **options):
        global left
        result = function(*arguments, **options)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for module, names in CHANGES:
    for name in names.split():
        setattr(module, name, killing(getattr(module, name)))
files = [sys.argv[2]]
code = calls.call("web", sys.argv[3], sys.stdin.buffer.read(), files)
sys.exit(code)
"""


@pytest.mark.parametrize("step", ["prepare", "release"])
def test_killed_at_each_change(
    step: str, cli: CommandLine, busybox_rootfs: Path
) -> None:
    """The next start goes well, and nothing is left after it."""
    domain = make(cli, busybox_rootfs)
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    destroy(cli)
    code = -signal.SIGKILL
    number = 0
    while code == -signal.SIGKILL:
        number += 1
        if step == "release":
            assert call(cli, "prepare", xml) == 0
        code = call(cli, step, xml, number)
        assert code in (-signal.SIGKILL, 0)
        if step == "prepare":
            assert call(cli, "prepare", xml) == 0
            assert cli.mounts() != []
        assert call(cli, "release", xml) == 0
        assert cli.mounts() == []
    assert number > (5 if step == "prepare" else 2)
    domain.create()
    assert uid_map() == OURS
    destroy(cli)


def call(
    cli: CommandLine, step: str, xml: str, number: int | None = None
) -> int:
    """Call the hook; with a number kill it after so many changes."""
    argv = [sys.executable, "-c", KILLED, str(number)]
    if number is None:
        argv = [sys.executable, "-c", "from lxc_userns.hook import main;"
                "raise SystemExit(main())"]  # fmt: skip
        argv += ["--config-file", str(cli.config), "web", step]
    else:
        argv += ["--config-file", str(cli.config), step]
    return subprocess.run(argv, input=xml, text=True, timeout=60).returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_libvirtd_is_started_anew(
    number: int, cli: CommandLine, busybox_rootfs: Path, libvirtd: Libvirtd
) -> None:
    """A container runs on, and its reconnect is verified."""
    make(cli, busybox_rootfs)
    pid = init_of()
    with libvirtd.down(number):
        assert init_of() == pid
    wait_for(lambda: look_up().isActive())
    assert (init_of(), uid_map()) == (pid, OURS)
    destroy(cli)


@pytest.mark.parametrize("file", ["configuration", "record"])
def test_what_tells_its_promise_cannot_be_read(
    file: str, cli: CommandLine, busybox_rootfs: Path, libvirtd: Libvirtd
) -> None:
    """A container runs on: nothing tells that it differs."""
    make(cli, busybox_rootfs)
    pid = init_of()
    record = cli.state / "instances/web.json"
    path = cli.config if file == "configuration" else record
    text = path.read_text()
    try:
        with libvirtd.down():
            path.write_text(f"{text}neither\n")
        # Its domain is locked while the hook is called for it.
        assert look_up().isActive()
    finally:
        path.write_text(text)
    assert init_of() == pid
    assert cli("container", "verify", "web").code == 0
    destroy(cli)


#: Mounts a directory of the host in a container, which it was not promised.
EXPOSE = """\
import ctypes, os, sys
from lxc_userns.linux import mount_api
mount = mount_api.clone_mount(os.open("/etc", os.O_PATH))
space = os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY)
target = os.open(f"/proc/{sys.argv[1]}/root/root", os.O_PATH)
assert ctypes.CDLL(None).setns(space, 0) == 0
mount_api.attach(mount, target)
"""


def test_one_that_was_changed_meanwhile(
    cli: CommandLine, busybox_rootfs: Path, libvirtd: Libvirtd
) -> None:
    """It ends when libvirtd comes back; libvirt 9.0 may forget it then."""
    make(cli, busybox_rootfs)
    with libvirtd.down():
        argv = [sys.executable, "-c", EXPOSE, str(init_of())]
        subprocess.run(argv, check=True, timeout=60)
    wait_for(lambda: init_of() is None)
    wait_for(lambda: not cli.mounts())


def test_libvirt_lxc_is_killed(cli: CommandLine, busybox_rootfs: Path) -> None:
    busybox_rootfs.parent.chmod(0o700)
    # libvirt 9.0 hangs up on one now and then, and does not see its end.
    argv = ("--rootfs", busybox_rootfs, "--init", SLEEP)
    cli.run_to_reboot("web", *argv)
    os.kill(look_up().ID(), signal.SIGKILL)
    wait_for(lambda: not cli.mounts())
    wait_for(lambda: not look_up().isActive())
    look_up().create()
    assert uid_map() == OURS
    destroy(cli)


def test_ended_while_libvirtd_was_down(
    cli: CommandLine, busybox_rootfs: Path, libvirtd: Libvirtd
) -> None:
    make(cli, busybox_rootfs)
    with libvirtd.down():
        pid = init_of()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: RunningDomains().find("web") is None)
        assert cli.mounts() != []
    wait_for(lambda: not cli.mounts())
    look_up().create()
    assert uid_map() == OURS
    destroy(cli)


def test_power_off_inside(cli: CommandLine, busybox_rootfs: Path) -> None:
    busybox_rootfs.parent.chmod(0o700)
    run = cli.run_to_reboot("web", "--rootfs", busybox_rootfs)
    guest.inside(run["init_pid"], "poweroff")
    wait_for(lambda: not cli.mounts())
    assert cli.json("container", "show", "web")["state"] == "stopped"


def make_many(cli: CommandLine, rootfs: Path) -> list[str]:
    """Define stopped containers that share a tree."""
    names = [f"web{number}" for number in range(MANY)]
    first = make(cli, rootfs, "--strategy", "overlay", name=names[0])
    xml = first.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for name in names[1:]:
        other = re.sub("<uuid>.*</uuid>", "", xml.replace(names[0], name))
        first.connect().defineXML(other)
    destroy(cli, names[0])
    return names


def test_many_at_once(
    cli: CommandLine, busybox_rootfs: Path, libvirtd: Libvirtd
) -> None:
    """Started by as many clients, and by libvirtd as the host boots."""
    names = make_many(cli, busybox_rootfs)
    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(lambda name: look_up(name).create(), names))
    assert [uid_map(name) for name in names] == [OURS] * MANY
    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(lambda name: end_domain(look_up(name)), names))
    wait_for(lambda: not cli.mounts())
    for name in names:
        look_up(name).setAutostart(True)
    with libvirtd.down():
        AUTOSTARTED.unlink()
    wait_for(lambda: all(map(init_of, names)))
    assert [uid_map(name) for name in names] == [OURS] * MANY
    # The last is verified when it is called active.
    wait_for(lambda: all(look_up(name).isActive() for name in names))
    for name in names:
        assert cli("container", "verify", name).code == 0


@pytest.fixture
def other_hook(tmp_path: Path) -> Iterator[Path]:
    """A hook of others, which notes each step of its own."""
    steps = tmp_path / "steps"
    path = hook.DIRECTORY / "40-other"
    path.write_text(f'#!/bin/sh\necho "$1 $2" >>{steps}\n')
    path.chmod(0o755)
    yield steps
    path.unlink()


def test_beside_a_hook_of_others(
    cli: CommandLine, busybox_rootfs: Path, other_hook: Path
) -> None:
    domain = make(cli, busybox_rootfs)
    destroy(cli)
    other_hook.unlink()
    domain.create()
    assert uid_map() == OURS
    destroy(cli)
    steps = ["prepare", "start", "started", "stopped", "release"]
    expected = [f"web {step}" for step in steps]
    wait_for(lambda: "release" in other_hook.read_text())
    told = other_hook.read_text().splitlines()
    # libvirt may call for the end twice.
    assert told[:3] == expected[:3]
    assert {*told[3:]} <= {*expected[3:]}
    assert cli("host", "hook", "remove").code == 0
    assert hook.DIRECTORY.exists()


def test_libvirtd_in_a_mount_namespace_of_its_own(
    cli: CommandLine, busybox_rootfs: Path, libvirtd: Libvirtd
) -> None:
    """Views are mounted where libvirtd looks, and nowhere else."""
    domain = make(cli, busybox_rootfs)
    del domain
    destroy(cli)
    libvirtd.end()
    libvirtd.start(["unshare", "--mount", "--propagation=private"])
    try:
        look_up().create()
        assert uid_map() == OURS
        assert cli.mounts() == []
        end_domain(look_up())
    finally:
        with suppress(libvirt.libvirtError):
            look_up().destroy()
        libvirtd.end()
        libvirtd.start()


def test_a_volume(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("here")
    domain = make(cli, busybox_rootfs, "--volume", f"{data}:/data")
    destroy(cli)
    domain.create()
    assert guest.ask(init_of(), "cat /data/file") == "here"
    assert len(cli.mounts()) == 2
    destroy(cli)


def limits_of(pid: int) -> tuple[list[str], str]:
    """Read a container's limits of processes and of its user namespace.

    :returns: those of its groups, and how many inotify instances it may have.
    """
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    line = next(
        each for each in groups if ":pids:" in each or each.startswith("0::")
    )
    _, kind, path = line.split(":", 2)
    top = Path("/sys/fs/cgroup", kind)
    places = [top / path.lstrip("/"), *(top / path.lstrip("/")).parents]
    texts = [
        (place / "pids.max").read_text().strip()
        for place in places
        if (place / "pids.max").exists()
    ]
    limits = [text for text in texts if text != "max"]
    counts = guest.ask(pid, "cat /proc/sys/user/max_inotify_instances")
    return limits, counts


def test_limits_are_set_at_each_start(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """By libvirt alone, and after a reboot from inside."""
    busybox_rootfs.parent.chmod(0o700)
    run = cli.run_to_reboot(
        "web", "--rootfs", busybox_rootfs, "--pids-limit", "77"
    )
    first = limits_of(run["init_pid"])
    assert "77" in first[0]
    host = Path("/proc/sys/user/max_inotify_instances").read_text()
    assert int(first[1]) < int(host)
    guest.inside(run["init_pid"], "reboot")
    wait_for(lambda: init_of() not in (None, run["init_pid"]))

    def is_limited() -> bool:
        # Whoever enters it has more capabilities than it may have: not before
        # the hook has looked at it, for which libvirt locks the domain.
        look_up().info()
        pid = init_of()
        return pid is not None and limits_of(pid) == first

    wait_for(is_limited)
    destroy(cli)
    look_up().create()
    wait_for(is_limited)
    destroy(cli)
