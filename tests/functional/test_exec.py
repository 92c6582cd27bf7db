# SPDX-License-Identifier: Apache-2.0
"""Commands in containers, of ours and of others, and what attacks them."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import libvirt
import pytest

from lxc_userns.attach import session
from lxc_userns.exceptions import NotRunningError
from lxc_userns.libvirtd.client import Guests
from lxc_userns.libvirtd.guest import Guest
from lxc_userns.linux import pseudoterminals
from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children
from tests.functional import foreign, images
from tests.functional.command_line import BASE, PROGRAM, CommandLine, Result

pytestmark = pytest.mark.needs("containers")

NAME = "box"
KINDS = ("private", "host", "others private", "others host")
LONGEST = 60
MEMBERS = "staff:x:50:nobody,alice\n"


@dataclass(frozen=True)
class Box:
    """A running container.

    :param root: its root filesystem.
    :param init: its first process.
    """

    cli: CommandLine
    root: Path
    init: int
    base: int

    def exec(self, *arguments: str, **options: object) -> Result:
        """Run a command in it."""
        return self.cli("container", "exec", NAME, *arguments, **options)

    def out(self, *arguments: str, **options: object) -> str:
        """Return what a command prints, which goes well."""
        done = self.exec(*arguments, **options)
        assert (done.code, done.err) == (0, "")
        return done.out

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line, for a process of its own."""
        return [
            *map(str, (PROGRAM, "--config-file", self.cli.config)),
            *("container", "exec", NAME, *arguments),
        ]


@pytest.fixture
def cli(command_line: Callable[[str], CommandLine]) -> CommandLine:
    return command_line("userns_policy = preferred\n")


@contextmanager
def running(
    kind: str,
    cli: CommandLine,
    connection: libvirt.virConnect,
    root: Path,
    *options: str,
) -> Iterator[Box]:
    with (root / "etc/group").open("a") as stream:
        stream.write(MEMBERS)
    base = 0 if kind.endswith("host") else BASE
    if kind.startswith("others"):
        root.parent.chmod(0o711)
        for path in (root, *root.rglob("*")) if base else ():
            os.chown(path, base, base, follow_symlinks=False)
        ids = foreign.idmap() if base else ""
        with foreign.running(connection, NAME, root, ids=ids) as made:
            yield Box(cli, root, made.init, base)
        return
    init = ("--rootfs", str(root), "--init", "/bin/sleep 1000")
    done = cli(
        *("container", "run", NAME, *init, "--mode", kind, *options),
        *("-f", "json"),
    )
    assert done.code == 0, done
    with Guests().init_process(NAME) as init_process:
        pid = int(init_process.pid)
    yield Box(cli, root, pid, base)


@pytest.fixture(params=KINDS)
def box(
    request: pytest.FixtureRequest,
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> Iterator[Box]:
    root = prepare(reachable_path)
    with running(request.param, cli, libvirt_connection, root) as made:
        yield made


@pytest.fixture
def private(
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> Iterator[Box]:
    root = prepare(reachable_path)
    with running("private", cli, libvirt_connection, root) as made:
        yield made


def prepare(path: Path) -> Path:
    store = path / "store"
    store.mkdir(mode=0o700)
    images.make_busybox(store / "root")
    return store / "root"


@contextmanager
def started(
    box: Box, *arguments: str, **options: object
) -> Iterator["subprocess.Popen[str]"]:
    process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
        # A shell may have started the tests with some ignored.
        ["env", "--default-signal", *box.argv(*arguments)],
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        },
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_nothing_of_the_host_comes_in(box: Box) -> None:
    """Environment, descriptors, directory and terminal."""
    script = (
        "env; pwd; umask; for n in 3 4 5 6 7 8 9 10 20 99; do "
        "[ -e /proc/self/fd/$n ] && echo leaked; done; tty; echo $$"
    )
    fds = [os.open("/", os.O_RDONLY) for _ in range(8)]
    try:
        with started(
            box, "--env", "A=b c", "sh", "-c", script,
            env=os.environ | {"SECRET": "x", "LD_PRELOAD": ""},
            pass_fds=fds,
        ) as process:  # fmt: skip
            out, err = process.communicate(timeout=LONGEST)
    finally:
        for fd in fds:
            os.close(fd)
    assert err == ""
    *lines, where, mask, terminal, pid = out.splitlines()
    assert {*lines} - {"SHLVL=1", "PWD=/root"} == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "USER=root",
        "LOGNAME=root",
        "SHELL=/bin/sh",
        "container=lxc-libvirt",
        "A=b c",
    }
    assert (where, mask, terminal) == ("/root", "0022", "not a tty")
    assert int(pid) > 1


def test_it_is_as_the_first_process_is(box: Box) -> None:
    """Namespaces, groups, rights and limits, as the host's kernel tells."""
    with started(box, "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert line(process) == "ready\n"
        (pid,) = children(process.pid)
        with Process(pid) as command, Process(box.init) as init:
            for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
                assert command.namespace(kind) == init.namespace(kind), kind
            assert command.cgroups == init.cgroups
            same = ("CapBnd", "NoNewPrivs", "CapPrm", "CapEff")
            assert command.status(*same) == init.status(*same)
            assert command.status("CapInh", "CapAmb") == ["0" * 16] * 2
            assert command.uid_map == init.uid_map
            assert command.oom_score_adj == init.oom_score_adj
            assert command.security_label == init.security_label
            assert command.status("Uid") == [str(box.base)]
        limits = [
            Path(f"/proc/{each}/limits").read_text()
            for each in (pid, box.init)
        ]
        assert limits[0] == limits[1]
        roots = [os.stat(f"/proc/{each}/root") for each in (pid, box.init)]
        assert os.path.samestat(*roots)
        sessions = Path(f"/proc/{pid}/stat").read_text().split()[4:6]
        assert sessions == [str(pid)] * 2
        process.terminate()
        assert process.wait(LONGEST) == 143


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("root", "0 0 0"),
        ("0", "0 0 0"),
        ("alice", "1000 1000 1000 50"),
        ("1000", "1000 1000 1000"),
        ("1000:5", "1000 5 5"),
        ("alice:tty", "1000 5 5"),
        ("4321", "4321 0 0"),
    ],
)
def test_users(private: Box, user: str, expected: str) -> None:
    found = private.out("--user", user, "sh", "-c", "id -u; id -g; id -G")
    assert found.split() == expected.split()


def test_a_user_has_no_capabilities_and_a_home(box: Box) -> None:
    (box.root / "home/alice").mkdir(parents=True, exist_ok=True)
    script = "pwd; echo $HOME $USER; grep CapEff /proc/self/status"
    found = box.out("-u", "alice", "sh", "-c", script).split()
    assert found == [
        "/home/alice", "/home/alice", "alice", "CapEff:", "0" * 16,
    ]  # fmt: skip
    # Who opens them by name as its user: they are its own.
    script = "echo out >/dev/stdout; echo err >/dev/stderr"
    done = box.exec("-u", "alice", "sh", "-c", script)
    assert (done.code, done.out, done.err) == (0, "out\n", "err\n")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("false",), 1, ""),
        (("sh", "-c", "exit 77"), 77, ""),
        (("sh", "-c", "kill -9 $$"), 137, ""),
        # Only what interrupts the program itself is said to.
        (("sh", "-c", "exit 130"), 130, ""),
        (("nosuch",), 127, "box: 'nosuch': not found"),
        (("/no/such",), 127, "box: '/no/such': not found"),
        (("/etc/passwd",), 126, "box: '/etc/passwd': Permission denied"),
        (("/etc",), 126, "box: '/etc': Permission denied"),
        (("--user", "bob", "id"), 125, "no such user in /etc/passwd"),
        (("--user", "0:bob", "id"), 125, "no such group in /etc/group"),
        (("--user", "70000", "id"), 125, "user 70000, group 0, of those"),
        (("--user", "4294967295", "id"), 125, "no such user"),
        (("--user", "", "id"), 125, "no such user"),
        (("--workdir", "/no", "id"), 125, "--workdir '/no': No such file"),
        (("--workdir", "etc", "id"), 125, "expected an absolute path"),
        (("--env", "A", "id"), 125, "expected NAME=VALUE"),
        (("",), 125, "is empty"),
    ],
)
def test_exit_codes(
    private: Box, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = private.exec(*arguments)
    if text:
        assert text in done.error(code)
    else:
        assert (done.code, done.err) == (code, "")


def test_options_of_the_command_are_its_own(private: Box) -> None:
    for arguments in (
        ("-w/etc", "echo", "-v", "--debug", "--user", "--", "-h"),
        ("--workdir=/etc", "--", "echo", "-v", "--debug", "--user", "--",
         "-h"),
    ):  # fmt: skip
        found = private.out(*arguments)
        assert found == "-v --debug --user -- -h\n"
    assert private.out("--workdir", "/etc", "pwd") == "/etc\n"


def test_no_such_container_and_none_that_runs(
    private: Box, libvirt_connection: libvirt.virConnect
) -> None:
    cli = private.cli
    found = cli("container", "exec", "other", "id").error(125)
    assert found == "other: no such container"
    uuid = cli.json("container", "show", NAME)["uuid"]
    assert cli("container", "exec", uuid, "echo", "x").out == "x\n"
    domain = libvirt_connection.lookupByName(NAME)
    domain.suspend()
    try:
        assert "is paused; resume it" in private.exec("id").error(125)
    finally:
        domain.resume()
    assert cli("container", "stop", NAME, "--timeout", "0").code == 0
    assert private.exec("id").error(125) == "box: is not running"


def test_streams(private: Box) -> None:
    """Large ones, in both directions at once, and to their ends."""
    data = os.urandom(1 << 20) * 8
    done = subprocess.run(
        private.argv("sh", "-c", "cat | tee /dev/stderr"),
        input=data,
        capture_output=True,
        timeout=LONGEST,
    )
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == data


def test_a_command_that_reads_nothing_leaves_the_rest(
    private: Box, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\nthree\n")
    loop = 'while read word; do "$@" echo $word; done'
    with lines.open() as stream:
        done = subprocess.run(
            ["sh", "-c", loop, "sh", *private.argv()],
            stdin=stream, capture_output=True, text=True, timeout=LONGEST,
        )  # fmt: skip
    assert (done.stdout, done.stderr) == ("one\ntwo\nthree\n", "")


def test_a_command_that_writes_to_its_own_input(
    private: Box, tmp_path: Path
) -> None:
    """Bytes that it was never given are not left to who reads next."""
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\n")
    with lines.open("rb", buffering=0) as stream:
        stream.seek(4)
        script = "sleep 0.5; printf 1234 >/proc/self/fd/0"
        subprocess.run(
            private.argv("sh", "-c", script), stdin=stream, check=True
        )
        assert stream.tell() == 4


@pytest.mark.parametrize(
    ("redirection", "arguments", "said"),
    [
        (">/dev/full", ("echo", "lost"), "standard output"),
        (">/dev/full", ("yes",), "standard output"),
        (">/dev/full", ("-t", "yes"), "standard output"),
        ("2>/dev/full", ("sh", "-c", "echo lost >&2"), ""),
    ],
)
def test_output_that_cannot_be_written(
    private: Box, redirection: str, arguments: tuple[str, ...], said: str
) -> None:
    """It is lost, whatever the command says of itself."""
    argv = ["sh", "-c", f'exec "$@" {redirection} </dev/null', "sh"]
    done = subprocess.run(
        [*argv, *private.argv(*arguments)],
        capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == 125
    error = f"error: {said}: No space left on device\n" if said else ""
    assert (done.stdout, done.stderr) == ("", error)


def test_closed_streams(private: Box) -> None:
    closed = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh"]
    done = subprocess.run(
        [*closed, *private.argv("cat")], capture_output=True, timeout=LONGEST
    )
    assert (done.returncode, done.stdout) == (0, b"")
    # Who reads has gone: the command is told as by any pipe.
    with started(private, "yes") as process:
        assert line(process) == "y\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(LONGEST) == 141
    # A terminal that is not read any more has gone.
    with started(private, "-t", "yes") as process:
        assert line(process) == "y\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(LONGEST) == 129


def test_a_process_in_the_background_is_left(private: Box) -> None:
    script = "sleep 1000 & echo $!"
    pid = private.out("sh", "-c", script).strip()
    assert private.exec("kill", "-0", pid).code == 0
    script = "while :; do echo x; done & echo first"
    assert private.out("sh", "-c", script).startswith(("first", "x"))


@pytest.mark.parametrize("number", ["INT", "TERM", "HUP", "QUIT"])
def test_signals(private: Box, number: str) -> None:
    script = f"trap 'exit 7' {number}; echo ready; while :; do sleep 1; done"
    with started(private, "sh", "-c", script) as process:
        assert line(process) == "ready\n"
        process.send_signal(getattr(signal, f"SIG{number}"))
        assert process.wait(LONGEST) == 7


class Terminal:
    """The terminal of a user of the host."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        pseudoterminals.set_size(self.master, 33, 99)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str) -> "re.Match[str]":
        deadline = time.monotonic() + LONGEST
        while not (found := re.search(pattern, self.text)):
            rest = max(0, deadline - time.monotonic())
            assert select.select([self.master], [], [], rest)[0], self.text
            self.text += os.read(self.master, 4096).decode()
        self.text = self.text[found.end() :]
        return found

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    for fd in (made.master, made.slave):
        with suppress(OSError):  # A test has hung up.
            os.close(fd)


@contextmanager
def on_terminal(
    box: Box, terminal: Terminal, *arguments: str
) -> Iterator["subprocess.Popen[str]"]:
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    with started(
        box, *arguments, **streams, start_new_session=True,
        env=os.environ | {"TERM": "vt220"},
    ) as process:  # fmt: skip
        yield process


def test_terminal(box: Box, terminal: Terminal) -> None:
    """Of the container's own: size, signals, keys; the host's is restored."""
    with on_terminal(box, terminal, "--tty") as process:
        terminal.type("echo $0 $TERM; tty; stty size\r")
        found = terminal.expect(r"-sh vt220\r\n(/dev/pts/\d+)\r\n33 99\r\n")
        assert terminal.is_raw()
        device = os.stat(f"/proc/{box.init}/root{found[1]}")
        own = os.fstat(terminal.slave)
        assert device.st_uid == box.base
        assert device.st_dev != own.st_dev
        pseudoterminals.set_size(terminal.master, 44, 55)
        process.send_signal(signal.SIGWINCH)
        terminal.type("stty size\r")
        terminal.expect(r"44 55\r\n")
        terminal.type("sh -c 'echo $((3 + 4)) up; exec sleep 1000'\r")
        terminal.expect("7 up")
        terminal.type("\x03")
        terminal.type("echo still $((1 + 1)); exit 9\r")
        terminal.expect("still 2")
        assert process.wait(LONGEST) == 9
        assert not terminal.is_raw()


def test_a_terminal_goes_away(private: Box, terminal: Terminal) -> None:
    with on_terminal(
        private, terminal, "-t", "sh", "-c", "echo ready; sleep 1000"
    ) as process:
        terminal.expect("ready")
        (pid,) = children(process.pid)
        with Process(pid) as command:
            os.close(terminal.slave)
            os.close(terminal.master)
            assert process.wait(LONGEST) == 129
            with suppress(ProcessLookupError):
                assert command.wait(LONGEST)


def test_terminal_without_one_of_the_host(private: Box) -> None:
    done = private.exec(
        "-t", "sh", "-c", 'tty; stty size; read x; echo "<$x>"; cat',
        input=b"word\n",
    )  # fmt: skip
    assert done.code == 0
    # The terminal echoes what is typed, whenever that comes.
    device, *others = sorted(done.out.split("\r\n"))[1:]
    assert re.fullmatch(r"/dev/pts/\d+", device)
    assert others == ["24 80", "<word>", "word"]


def test_the_last_line_for_a_terminal_does_not_end(private: Box) -> None:
    done = private.exec("-t", "cat", input=b"one\ntwo")
    assert done.code == 0
    assert "two" in done.out


def test_each_reader_of_a_terminal_finds_the_end(private: Box) -> None:
    """The end for all of them, which a pipe has too."""
    # The shell edits lines, and has the terminal pass on all keys; cat not.
    commands = b"cat\necho one\ncat\n"
    for argv in (("sh",), ("sh", "-c", "cat; cat; sh; cat; echo two >&2")):
        done = private.exec("-t", *argv, input=commands)
        assert done.code == 0
    assert done.out.endswith("two\r\n")


def test_terminal_that_is_none(private: Box) -> None:
    """The container has put something else in place of the device."""
    script = (
        "umount /dev/pts; rm -rf /dev/pts; mkdir -p /dev/pts; "
        "mkfifo /dev/pts/ptmx"
    )
    private.exec("sh", "-c", script)
    found = private.exec("-t", "id").error(125)
    assert "make a terminal: " in found


def make_long(path: Path) -> None:
    path.write_text("x:x:1:1::/:/bin/sh\n" * 1_000_000)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "directory": Path.mkdir,
    "a million lines": make_long,
    "a long line": lambda path: path.write_text("x" * 100_000),
    "magic link": lambda path: path.symlink_to("/proc/self/fd/0"),
    "loop": lambda path: path.symlink_to("passwd"),
    "link to the host": lambda path: path.symlink_to("../../../../etc/hosts"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "null bytes": lambda path: path.write_text("alice\0::0:0::/:/bin/sh\n"),
    "malformed": lambda path: path.write_text("alice:x:99999999999:0:::\n"),
    "nothing": lambda path: None,
}


def test_hostile_passwd(private: Box) -> None:
    """One line for who is looked up there; root by number needs none."""
    path = private.root / "etc/passwd"
    for what, make in HOSTILE.items():
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        make(path)
        found = private.exec("--user", "alice", "id").error(125)
        assert found.startswith("box: user 'alice': "), what
        assert private.out("echo", "in") == "in\n", what


def compile_watcher(path: Path) -> None:
    source = Path(__file__).with_name("watch.c")
    argv = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*argv, "-o", str(path), str(source)], check=True)


@pytest.mark.parametrize("kind", ["private", "host"])
def test_attack_on_the_joining_process(
    kind: str,
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> None:
    """Root of the container waits for it to come in (CVE-2019-5736).

    It takes long to find its program, and so to become it.
    """
    root = prepare(reachable_path)
    compile_watcher(root / "bin/watch")
    with (
        running(kind, cli, libvirt_connection, root) as box,
        started(box, "watch", "/bin/busybox", "/bin/sleep") as watch,
    ):
        assert line(watch) == "ready\n"
        began = time.monotonic()
        assert box.exec("sh", "-c", ":").code == 0
        # As many as take a good while, also where the machine is emulated.
        number = int(30_000 / max(1, 2 * (time.monotonic() - began)))
        slow = "PATH=" + "/x:" * number + "/bin"
        for _ in range(5):
            assert box.exec("--env", slow, "sh", "-c", ":").code == 0
        watch.terminate()
        assert watch.stdout is not None
        found = {*watch.stdout.read().splitlines()}
        with Process(box.init) as init:
            is_confined = init.security_label.endswith("(enforce)")
    if kind == "private" or is_confined:
        assert found == {"denied"}
    else:
        # It has the host's user IDs, and may trace; it cannot write.
        assert found == {"opened exe", "written: Read-only file system"}


def test_attack_by_what_is_executed(box: Box) -> None:
    """The program asks for what executes it, which is the host's."""
    program = box.root / "bin/trap"
    program.write_text("#!/proc/self/exe\nopen('/pwned', 'w').write('x')\n")
    program.chmod(0o755)
    program.with_name("way").symlink_to("/proc/self/exe")
    for name in ("trap", "/bin/trap", "way"):
        assert "Permission denied" in box.exec(name, "-h").error(126)
    (box.root / "bin/sh").unlink()
    program.rename(box.root / "bin/sh")
    assert "Permission denied" in box.exec().error(126)
    assert not (box.root / "pwned").exists()


def test_attack_by_the_working_directory(box: Box) -> None:
    """No descriptor of the host is left to lead out (CVE-2024-21626)."""
    (box.root / "way").symlink_to("/proc/self/fd")
    for number in range(24):
        for directory in ("/proc/self/fd", "/way", "/proc/1/fd"):
            done = box.exec("--workdir", f"{directory}/{number}", "pwd")
            if directory == "/proc/1/fd" and done.code == 0:
                continue  # What its own first process has open.
            assert "--workdir" in done.error(125)
    own = box.out("--workdir", "/proc/self/cwd", "stat", "-c%d:%i", ".")
    assert own == box.out("stat", "-c%d:%i", "/")


def test_a_container_ends_meanwhile(private: Box) -> None:
    with started(private, "sh", "-c", "echo ready; sleep 1000") as process:
        assert line(process) == "ready\n"
        assert private.cli("container", "stop", NAME, "-h").code == 0
        private.cli("container", "stop", NAME, "--timeout", "0")
        assert process.wait(LONGEST) == 137
    assert private.exec("id").error(125) == "box: is not running"


@dataclass(frozen=True)
class Ending:
    """Guests of which one ends as soon as it was found."""

    pid: int

    def find(self, name: str) -> Guest:
        return Guest(name, "", "running", 1)

    @contextmanager
    def init_process(self, _name: str) -> Iterator[Process]:
        with Process(self.pid) as process:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            yield process


def test_a_container_ends_while_it_is_joined() -> None:
    """Its first process is gone before it can be held."""
    process = subprocess.Popen(["sleep", "1000"])
    guests = cast(Guests, Ending(process.pid))
    with (
        pytest.raises(NotRunningError, match="box: is not running"),
        session.start(guests, NAME, session.CommandSpec()),
    ):
        pass
    process.returncode = -signal.SIGKILL


def test_limits_hold(
    cli: CommandLine,
    libvirt_connection: libvirt.virConnect,
    reachable_path: Path,
) -> None:
    root = prepare(reachable_path)
    limit = ("--pids-limit", "10")
    # The shell ends when it cannot fork: its place stays taken.
    script = "trap 'exec sleep 1000' EXIT; "
    script += "for n in $(seq 20); do sleep 1000 & done"
    with (
        running("private", cli, libvirt_connection, root, *limit) as box,
        started(box, "sh", "-c", script) as process,
    ):
        assert process.stderr is not None
        assert "fork" in process.stderr.readline()
        found = box.exec("id").error(125)
        assert "start a process in it: Resource temporarily un" in found


def test_twenty_at_once(box: Box) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = pool.map(lambda n: box.out("echo", str(n)), range(20))
        assert [*found] == [f"{n}\n" for n in range(20)]


def test_descriptors_of_the_terminal_do_not_block_others(
    private: Box, terminal: Terminal
) -> None:
    """The host's terminal is as it was, for whoever shares it."""
    with on_terminal(private, terminal, "-t", "true") as process:
        assert process.wait(LONGEST) == 0
    assert not fcntl.fcntl(terminal.slave, fcntl.F_GETFL) & os.O_NONBLOCK
