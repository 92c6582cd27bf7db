# SPDX-License-Identifier: Apache-2.0
"""``tools/private-libvirtd`` works, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from tests.functional.capabilities import TOOLS, require
from tests.functional.images import make_busybox
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("private-libvirtd")

TOOL = TOOLS / "private-libvirtd"
PROC = Path("/proc")
DEADLINE = 60.0

DOMAIN = """
<domain type='lxc'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type>exe</type><init>/bin/sleep</init><initarg>1000</initarg></os>
  <idmap>
    <uid start='0' target='300000' count='65536'/>
    <gid start='0' target='300000' count='65536'/>
  </idmap>
  <features><privnet/></features>
  <devices>
    <filesystem><source dir='{root}'/><target dir='/'/></filesystem>
    <console type='pty'/>
  </devices>
</domain>
"""

VIRSH = "virsh --quiet --connect lxc:///"
# Tells the namespaces that the run is in, and waits to be killed.
WAIT = "readlink /proc/self/ns/pid /proc/self/ns/mnt; exec sleep 1000"


@dataclass(frozen=True)
class Traces:
    """Traces that a run might leave on the host."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    interfaces: frozenset[str]
    files: frozenset[str]

    @classmethod
    def look(cls) -> "Traces":
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        files: set[str] = set()
        for directory in ("etc", "run", "var/cache", "var/lib", "var/log"):
            files.update(walk(f"/{directory}/libvirt"))
        return cls(
            frozenset(lines),
            frozenset(
                path
                for path in walk("/sys/fs/cgroup")
                if "private-libvirtd." in path
            ),
            frozenset(os.listdir("/sys/class/net")),
            frozenset(files),
        )


def walk(top: str) -> Iterator[str]:
    for path, _, names in os.walk(top):
        yield path
        if not path.startswith("/sys"):
            yield from (f"{path}/{name}" for name in names)


def processes(token: str, namespaces: list[str]) -> list[int]:
    """List the processes called with a token, or in one of namespaces."""
    found = []
    for directory in PROC.glob("[0-9]*"):
        with suppress(OSError):
            links = [
                os.readlink(directory / f"ns/{n}") for n in ("pid", "mnt")
            ]
            called = (directory / "cmdline").read_bytes()
            if token.encode() in called or set(links) & set(namespaces):
                found.append(int(directory.name))
    return found


@pytest.fixture
def token() -> str:
    return uuid.uuid4().hex


@pytest.fixture(autouse=True)
def no_traces(
    capable: None, libvirt_connection: libvirt.virConnect, token: str
) -> Iterator[list[str]]:
    """Check that all is as before, once the processes are gone.

    Inside of a run there is no one else to change it. The list takes the
    names of namespaces in which none may be left.
    """
    namespaces: list[str] = []
    before = Traces.look()
    yield namespaces
    give_up = time.monotonic() + DEADLINE
    while processes(token, namespaces) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert processes(token, namespaces) == []
    assert Traces.look() == before


def run(script: str, token: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOL, "bash", "-ec", script, token],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


@contextmanager
def started(script: str, token: str) -> Iterator[subprocess.Popen[str]]:
    argv = [str(TOOL), "bash", "-ec", script, token]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture(scope="module")
def container_root() -> Iterator[Path]:
    """Make a root file system for any number of containers."""
    require("root")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o711)
        root = Path(directory, "root")
        make_busybox(root)
        argv = ["chown", "-hR", "300000:300000", str(root)]
        subprocess.run(argv, check=True)
        yield root


@pytest.fixture
def container(container_root: Path, tmp_path: Path) -> Path:
    """Write the definition of a container called ``contained``."""
    definition = tmp_path / "contained.xml"
    definition.write_text(DOMAIN.format(name="contained", root=container_root))
    return definition


def test_command_is_the_callers(token: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [TOOL, "bash", "-c", 'pwd; echo "$OF_THE_CALLER"; cat', token],
        cwd=tmp_path,
        env=os.environ | {"OF_THE_CALLER": "kept"},
        input="from the caller",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.stdout == f"{tmp_path}\nkept\nfrom the caller"
    assert (result.returncode, result.stderr) == (0, "")


def test_libvirtd_is_empty_and_local(token: str) -> None:
    result = run(f"{VIRSH} uri; {VIRSH} list --all --name", token)
    assert result.stdout.split() == ["lxc:///"]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143)],
)
def test_exit_status(script: str, status: int, token: str) -> None:
    assert run(script, token).returncode == status


@pytest.mark.parametrize("attempt", range(4))
def test_command_ends_at_once(attempt: int) -> None:
    assert subprocess.run([TOOL, "true"], timeout=DEADLINE).returncode == 0


def test_no_such_command(token: str) -> None:
    result = subprocess.run(
        [TOOL, f"/nowhere/{token}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 127
    assert result.stderr == (
        "private-libvirtd: [Errno 2] No such file or directory: "
        f"'/nowhere/{token}'\n"
    )


def test_no_command() -> None:
    result = subprocess.run(
        [TOOL], stdout=subprocess.PIPE, text=True, timeout=DEADLINE
    )
    assert result.returncode == 2
    assert "usage: tools/private-libvirtd COMMAND" in result.stdout


def test_not_root(reachable_path: Path, token: str) -> None:
    # A checkout may be where others cannot pass.
    tools = reachable_path / "tools"
    tools.mkdir(mode=0o755)
    program = shutil.copy(TOOL, tools)
    shutil.copytree(TOOLS / "private_libvirtd", tools / "private_libvirtd")
    subprocess.run(["chmod", "-R", "a+rX", tools], check=True)
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", program, "true", token],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 125
    assert result.stderr == "private-libvirtd: run as root\n"


def test_libvirtd_does_not_start(
    libvirt_connection: libvirt.virConnect, token: str
) -> None:
    # It is the outer one's copy, so that the host's is not in danger.
    settings = Path("/etc/libvirt/libvirtd.conf")
    before = settings.read_bytes() if settings.exists() else None
    settings.write_text("no setting\n")
    try:
        result = run("echo not reached", token)
    finally:
        settings.unlink()
        if before is not None:
            settings.write_bytes(before)
    assert (result.returncode, result.stdout) == (125, "")
    assert "libvirtd ended by itself; its log ends with:" in result.stderr
    assert "/etc/libvirt/libvirtd.conf" in result.stderr


@pytest.mark.needs("containers")
@pytest.mark.parametrize("state", ["running", "paused"])
def test_container_ends_with_the_run(
    state: str, container: Path, token: str
) -> None:
    script = f"{VIRSH} create {container} >&2; "
    if state == "paused":
        # Its processes cannot die before they are thawed.
        script += f"{VIRSH} suspend contained >&2; "
    result = run(f"{script} {VIRSH} domstate contained", token)
    assert result.stdout.split() == [state], result.stderr
    assert result.returncode == 0


@pytest.mark.needs("containers")
def test_container_is_in_the_runs_cgroups(container: Path, token: str) -> None:
    script = (
        f"{VIRSH} create {container} >&2; "
        f"controller=$({VIRSH} domid contained); "
        "init=$(pgrep -P $controller); "
        "cat /proc/$init/uid_map /proc/$init/cgroup; echo; "
        "find /sys/fs/cgroup -name '*contained*' "
        "-exec cat {}/memory.max {}/memory.limit_in_bytes ';' 2>/dev/null"
    )
    result = run(script, token)
    known, limits = result.stdout.split("\n\n")
    assert known.split()[:3] == ["0", "300000", "65536"]
    assert ":/machine" in known
    assert "private-libvirtd." not in known
    assert limits.split() == [str(64 << 20)]


@pytest.mark.needs("containers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_is_passed_on(
    number: signal.Signals,
    container: Path,
    token: str,
    no_traces: list[str],
) -> None:
    script = f"{VIRSH} create {container} >&2; {WAIT}"
    with started(script, token) as process:
        no_traces += [line(process), line(process)]
        assert processes("", no_traces)
        process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + number


@pytest.mark.needs("containers")
@pytest.mark.parametrize("state", ["running", "paused"])
def test_sigkill(
    state: str, container: Path, token: str, no_traces: list[str]
) -> None:
    script = f"{VIRSH} create {container} >&2; "
    if state == "paused":
        script += f"{VIRSH} suspend contained >&2; "
    with started(script + WAIT, token) as process:
        no_traces += [line(process), line(process)]
        assert processes("", no_traces)
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL


@pytest.mark.parametrize("tenths", range(8))
def test_sigkill_at_any_time(tenths: int, token: str) -> None:
    with started("sleep 1000", token) as process:
        time.sleep(tenths / 10)
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL


def test_directories_go_with_the_last_run(token: str) -> None:
    # A host where libvirt never ran: it lacks two of the directories.
    script = """
        mount --no-mtab -t tmpfs tmpfs /run
        mount --no-mtab -t tmpfs tmpfs /var/cache
        coproc one { "$1" bash -c "echo up; read" "$2"; }
        pid=$one_PID
        read <&${one[0]}
        "$1" true "$2"
        ls -A /run /var/cache
        echo >&${one[1]}
        wait $pid
        ls -A /run /var/cache
    """
    argv = ["unshare", "--mount", "--propagation", "private", "bash", "-ec"]
    result = subprocess.run(
        [*argv, script, "bash", str(TOOL), token],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.stdout.split() == [
        *("/run:", "libvirt", "/var/cache:", "libvirt"),
        *("/run:", "/var/cache:"),
    ]
    assert (result.returncode, result.stderr) == (0, "")


def test_side_by_side(
    container: Path, token: str, no_traces: list[str]
) -> None:
    listed = f"{VIRSH} list --all --name"
    script = f"{VIRSH} define {container} >&2; echo; read; {listed}; {WAIT}"
    with started(script, token) as one:
        assert line(one) == ""
        # The same name in another one; and an end that is not the first's.
        other = run(f"{listed}; {VIRSH} define {container} >&2", token)
        assert (other.returncode, other.stdout.strip()) == (0, "")
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
        assert line(one) == "contained"
        no_traces += [line(one), line(one)]


@pytest.fixture(scope="module")
def neighbour(
    libvirt_connection: libvirt.virConnect, container_root: Path
) -> Iterator[libvirt.virDomain]:
    """Start a container in the libvirtd around the tests."""
    definition = DOMAIN.format(name="contained", root=container_root)
    domain = libvirt_connection.createXML(definition)
    # libvirt writes its status once more when its first process is there.
    status = Path("/run/libvirt/lxc/contained.xml")
    wait_for(lambda: "<init pid=" in status.read_text())
    yield domain
    domain.destroy()


def test_other_libvirtd_is_not_touched(
    neighbour: libvirt.virDomain, container: Path, token: str
) -> None:
    before = Path(f"/proc/{neighbour.ID()}/cgroup").read_text()
    result = run(f"{VIRSH} create {container}; {VIRSH} list --name", token)
    assert result.stdout.split()[-1:] == ["contained"], result.stderr
    assert neighbour.isActive()
    assert Path(f"/proc/{neighbour.ID()}/cgroup").read_text() == before
