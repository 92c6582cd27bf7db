# SPDX-License-Identifier: Apache-2.0
"""Known dangers of libvirt's and other containers, on real ones.

Each danger is shown twice: on a container that others could have made, where
it is real, and on ours. The documentation has a row for each, which names the
test.
"""

import os
import socket
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

import libvirt
import pytest

from tests.functional.command_line import BASE, CommandLine
from tests.functional.foreign import PRIVNET, idmap, running
from tests.functional.guest import ask
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    """The program; its containers are destroyed at the end."""
    return command_line("")


@pytest.fixture
def rootfs(shared_rootfs: Path) -> Path:
    """A tree that a container without views can reach."""
    return shared_rootfs


def has_text(result: Path) -> bool:
    return result.exists() and result.stat().st_size > 0


def ours(
    cli: CommandLine, rootfs: Path, script: str, *options: str | Path
) -> str:
    """Return what the first process of a container of ours says."""
    (rootfs / "try").write_text(
        f"PATH=/bin\n({script}) >/new 2>&1\nmv /new /result\nexec sleep 1000\n"
    )
    (rootfs / "result").unlink(missing_ok=True)
    cli.json("container", "run", "ours", "--rootfs", rootfs, "--init",
             "/bin/sh /try", "--strategy", "chown", *options)  # fmt: skip
    try:
        wait_for(lambda: has_text(rootfs / "result"))
        return (rootfs / "result").read_text()
    finally:
        assert cli("container", "destroy", "ours").code == 0
        # Only where no user of the host can reach it.
        mode = stat.S_IMODE(rootfs.parent.stat().st_mode)
        rootfs.parent.chmod(0o700)
        assert cli("rootfs", "unshift", rootfs).code == 0
        rootfs.parent.chmod(mode)


@contextmanager
def listening(address: str | bytes) -> Iterator[None]:
    """A service of the host, on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        yield


def add_connect(rootfs: Path) -> None:
    """Add a program that connects to a Unix socket."""
    source = Path(__file__).with_name("connect.c")
    program = rootfs / "bin/connect"
    argv = ["gcc", "-static", "-Wall", "-o", str(program), str(source)]
    subprocess.run(argv, check=True)


def test_abstract_sockets(
    cli: CommandLine, rootfs: Path, libvirt_connection: libvirt.virConnect
) -> None:
    """libvirt: network isolation."""
    add_connect(rootfs)
    name = f"lxc-userns-test-{uuid.uuid4()}"
    script = f"/bin/connect @{name}; ls /sys/class/net"
    with listening(f"\0{name}"):
        with running(
            libvirt_connection, "open", rootfs, script, features=""
        ) as found:
            said, *devices = found.said.splitlines()
            assert said == "connected"
            assert {*devices} == {*os.listdir("/sys/class/net")}
        refused = ["Connection refused", "lo"]
        with running(libvirt_connection, "closed", rootfs, script) as found:
            assert found.said.splitlines() == refused
        assert ours(cli, rootfs, script).splitlines() == refused


def test_the_hosts_sockets_in_run(
    cli: CommandLine, rootfs: Path, libvirt_connection: libvirt.virConnect
) -> None:
    """libvirt: filesystem isolation."""
    add_connect(rootfs)
    place = Path(f"/run/lxc-userns-test-{os.getpid()}")
    place.mkdir(mode=0o700)
    result = rootfs / "said"
    # Whoever gives no root filesystem gives the host's.
    script = f"{rootfs}/bin/connect {place}/socket >{result}"
    try:
        with listening(f"{place}/socket"):
            with open_root(libvirt_connection, script, result):
                assert result.read_text() == "connected\n"
            said = ours(cli, rootfs, f"/bin/connect {place}/socket")
            assert said == "No such file or directory\n"
    finally:
        (place / "socket").unlink(missing_ok=True)
        place.rmdir()


@contextmanager
def open_root(
    connection: libvirt.virConnect, script: str, result: Path
) -> Iterator[None]:
    """A container without a root filesystem of its own."""
    domain = connection.createXML(
        f"""<domain type='lxc'><name>rootless</name>
        <memory unit='MiB'>128</memory>
        <os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg>
        <initarg>{escape(script)}; exec sleep 1000</initarg></os>
        <features>{PRIVNET}</features>
        <devices><console type='pty'/></devices></domain>"""
    )
    try:
        wait_for(lambda: has_text(result))
        yield
    finally:
        domain.destroy()


def test_files_of_the_hosts_root(
    cli: CommandLine,
    rootfs: Path,
    reachable_path: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """libvirt: user and group isolation."""
    data = reachable_path / "data"
    data.mkdir(mode=0o755)
    (data / "secret").write_text("secret")
    (data / "secret").chmod(0o600)
    script = (
        "cat /data/secret && echo; cp /bin/busybox /data/program"
        " && chmod 4755 /data/program; id -u"
    )
    devices = (
        f"<filesystem type='mount'><source dir='{data}'/>"
        "<target dir='/data'/></filesystem>"
    )
    with running(
        libvirt_connection, "open", rootfs, script, devices=devices
    ) as found:
        assert found.said.split() == ["secret", "0"]
    # A program that whoever reaches it on the host runs as the host's root.
    made = (data / "program").stat()
    assert (made.st_uid, made.st_mode & 0o7777) == (0, 0o4755)
    (data / "program").unlink()

    volume = ("--volume", f"{data}:/data:none")
    said = ours(cli, rootfs, script, *volume)
    assert "Permission denied" in said
    assert said.split()[-1] == "0"
    assert "secret\n" not in said
    assert not (data / "program").exists()


def test_control_groups_of_the_host(
    cli: CommandLine, rootfs: Path, libvirt_connection: libvirt.virConnect
) -> None:
    """libvirt binds whole hierarchies into containers, to be written to."""
    name = f"lxc-userns-test-{uuid.uuid4()}"
    made = Path(f"/sys/fs/cgroup/memory/{name}")
    script = f"mkdir {made} && echo made"
    try:
        with running(libvirt_connection, "open", rootfs, script) as found:
            assert found.said == "made\n"
            # On the host.
            assert made.is_dir()
    finally:
        if made.is_dir():
            made.rmdir()
    said = ours(cli, rootfs, script)
    assert "Permission denied" in said
    assert not made.exists()
    subprocess.run(["chown", "-hR", f"{BASE}:{BASE}", rootfs], check=True)
    with running(
        libvirt_connection, "mapped", rootfs, script, ids=idmap()
    ) as found:
        assert "Permission denied" in found.said
    assert not made.exists()


def test_settings_of_the_kernel(
    cli: CommandLine, rootfs: Path, libvirt_connection: libvirt.virConnect
) -> None:
    """/proc/sys is read-only until its root says otherwise."""
    # To what it is already.
    script = (
        "mount -o remount,bind,rw /proc/sys; p=/proc/sys/kernel/domainname;"
        'p=/proc/sys/kernel/core_pattern; v=$(cat $p); echo "$v" >$p'
        " && echo written"
    )
    with running(libvirt_connection, "open", rootfs, script) as found:
        assert found.said == "written\n"
    said = ours(cli, rootfs, script)
    assert "Permission denied" in said
    assert "written" not in said


def test_how_soon_the_kernel_kills_it(
    cli: CommandLine, rootfs: Path, libvirt_connection: libvirt.virConnect
) -> None:
    """Kubernetes: oom_score_adj of processes in user namespaces.

    libvirt sets none, so nothing fails; and what a container has it cannot
    lower, with or without a user namespace: the kernel asks for a capability
    in the host's, which libvirt's own is taken to have.
    """
    script = (
        "cat /proc/self/oom_score_adj; echo 500 >/proc/self/oom_score_adj"
        " && cat /proc/self/oom_score_adj;"
        "echo -1000 >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj"
    )
    first, raised, refused, last = ours(cli, rootfs, script).splitlines()
    assert first == Path("/proc/self/oom_score_adj").read_text().strip()
    assert (raised, last) == ("500", "500")
    assert refused.endswith("Permission denied")


def test_state_directories_that_are_closed(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    """Kubernetes: permission denied on directories that only root can enter.

    Everything that the container uses lies below directories of mode 0700,
    and nothing of that is opened.
    """
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, 1000, 1000)
    closed = {
        path: path.stat().st_mode & 0o7777
        for path in (tmp_path, tmp_path.parent, data)
    }
    assert 0o700 in closed.values()
    shown = cli.json(
        "container", "run", "ours", "--rootfs", busybox_rootfs, "--init",
        "/bin/sleep 1000", "--volume", f"{data}:/data",
    )  # fmt: skip
    assert shown["strategy"] == "idmapped"
    pid = shown["init_pid"]
    ask(pid, "touch /data/made", 1000)
    assert (data / "made").stat().st_uid == 1000
    assert {path: path.stat().st_mode & 0o7777 for path in closed} == closed
    # Users of the host get at neither, not by the views either.
    for place in (
        f"{cli.run}/ours/root/etc", f"{cli.run}/ours/volume0",
        f"{busybox_rootfs}/etc", str(data), str(cli.state),
    ):  # fmt: skip
        looked = subprocess.run(
            ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups",
             "ls", place],
            capture_output=True, text=True,
        )  # fmt: skip
        assert looked.returncode != 0, place
        assert "Permission denied" in looked.stderr


@pytest.mark.parametrize(
    ("base", "owner", "said"),
    [
        # libvirt takes host ID 0 without a word.
        (0, 0, "secret"),
        (1000, 1000, "secret"),
        (BASE, 0, "Permission denied"),
        (BASE, 1000, "Permission denied"),
    ],
)
def test_host_ids_that_somebody_has(
    rootfs: Path,
    reachable_path: Path,
    libvirt_connection: libvirt.virConnect,
    base: int,
    owner: int,
    said: str,
) -> None:
    """A container is whoever its root is on the host."""
    data = reachable_path / "data"
    data.mkdir(mode=0o755)
    (data / "file").write_text("secret\n")
    (data / "file").chmod(0o600)
    os.chown(data / "file", owner, owner)
    subprocess.run(["chown", "-hR", f"{base}:{base}", rootfs], check=True)
    ids = idmap().replace(f"'{BASE}'", f"'{base}'")
    devices = (
        f"<filesystem type='mount'><source dir='{data}'/>"
        "<target dir='/data'/></filesystem>"
    )
    with running(
        libvirt_connection,
        "mapped",
        rootfs,
        "cat /data/file",
        ids=ids,
        devices=devices,
    ) as found:
        assert found.said.strip().endswith(said)


def test_shared_memory_of_the_host(
    cli: CommandLine, rootfs: Path, libvirt_connection: libvirt.virConnect
) -> None:
    """A shared IPC namespace shows it, and lets it be written."""
    made = subprocess.check_output(["ipcmk", "-M", "4096"], text=True)
    number = made.split()[-1]
    rows = Path("/proc/sysvipc/shm").read_text().splitlines()
    (key,) = (row.split()[0] for row in rows if row.split()[1] == number)
    try:
        script = "cat /proc/sysvipc/shm"
        shared = (
            "<lxc:namespace><lxc:shareipc type='pid' value='1'/>"
            "</lxc:namespace>"
        )
        with running(
            libvirt_connection, "open", rootfs, script, last=shared
        ) as found:
            assert key in found.said.split()
        with running(libvirt_connection, "closed", rootfs, script) as found:
            assert key not in found.said.split()
        assert key not in ours(cli, rootfs, script).split()
    finally:
        subprocess.run(["ipcrm", "-m", number], check=True)
