# SPDX-License-Identifier: Apache-2.0
"""``host check`` on this host, and on ones of which pieces are bad."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lxc_userns.domain.seclabel import parse_models
from lxc_userns.linux.systemd import has_machined
from tests.functional.command_line import CommandLine, Result

pytestmark = pytest.mark.needs("containers")

ALWAYS = [
    *("root", "kernel", "user namespaces", "number of user namespaces"),
    *("shared limits", "programs", "libvirt", "security driver"),
    *("session keyring", "cgroups"),
    *("state_path", "run_path", "mounts in run_path", "hook"),
    *("network driver", "bridges"),
    *("subordinate user IDs", "subordinate group IDs"),
    *("range for new users", "pool", "overlays"),
]
SWITCHES = (
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
)
#: A namespace to make things bad in, by a shell script.
APART = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")
NESTED = ("unshare", "--user", "--map-root-user", "sh", "-ec")
#: It can get at the program wherever that is, and has no other rights.
NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
LIMIT = "/proc/sys/user/max_user_namespaces"
HIDE_LIBVIRT = "mount -t tmpfs none /run/libvirt"


@pytest.fixture
def cli(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
) -> CommandLine:
    """The program, beside a libvirtd in the same mount namespace."""
    return CommandLine.make(tmp_path, reachable_path / "run")


@dataclass(frozen=True)
class Report:
    """The checks, as the command prints them.

    :param rows: message and so on, by check.
    """

    code: int
    rows: dict[str, dict[str, str]]

    def status(self, check: str) -> str:
        return self.rows[check]["status"]

    def row(self, check: str) -> tuple[str, str, str]:
        row = self.rows[check]
        return row["status"], row["message"], row["remedy"]


def read(result: Result) -> Report:
    """Read the report; whatever is bad, it is in order as such."""
    assert result.err == ""
    rows = json.loads(result.out)
    names = [row["check"] for row in rows]
    assert len({*names}) == len(names)
    basic = [name for name in names if name not in SWITCHES]
    assert basic[: len(ALWAYS)] == ALWAYS
    rest = basic[len(ALWAYS) :]
    assert rest
    assert all(name.startswith("idmapped mounts") for name in rest)
    for row in rows:
        assert [*row] == ["check", "status", "message", "remedy"]
        assert row["status"] in ("PASS", "WARN", "FAIL")
        assert row["message"]
        assert bool(row["remedy"]) == (row["status"] != "PASS")
    bad = any(row["status"] == "FAIL" for row in rows)
    assert result.code == int(bad)
    return Report(result.code, {row["check"]: row for row in rows})


def check(cli: CommandLine, script: str = "", **options: Any) -> Report:
    """Ask, after a script has made things bad in a mount namespace."""
    if script:
        options["prefix"] = (*APART, f'{script}; exec "$@"', "sh")
    return read(cli("host", "check", "-f", "json", **options))


def test_this_host(
    cli: CommandLine, libvirt_connection: libvirt.virConnect
) -> None:
    found = check(cli)
    assert found.code == 0
    for name in (
        *("root", "user namespaces", "programs", "libvirt", "state_path"),
        *("run_path", "mounts in run_path", "pool"),
    ):
        assert found.status(name) == "PASS"
    version = ".".join(libvirt_version())
    assert found.rows["libvirt"]["message"].startswith(f"libvirt {version} ")
    assert "the same mounts" in found.rows["mounts in run_path"]["message"]
    # The one that is made for tests has none.
    models = parse_models(libvirt_connection.getCapabilities())
    assert found.status("security driver") == ("PASS" if models else "WARN")


def libvirt_version() -> list[str]:
    output = subprocess.run(
        ["libvirtd", "--version"], check=True, stdout=subprocess.PIPE
    ).stdout
    return output.decode().split()[-1].split(".")


def test_the_table(cli: CommandLine) -> None:
    result = cli("host", "check")
    head = result.out.splitlines()[1]
    columns = [each.strip() for each in head.strip("|").split("|")]
    assert columns == ["check", "status", "message", "remedy"]


@contextmanager
def hybrid_cgroups() -> Iterator[None]:
    """Both versions of control groups, where libvirtd is too."""
    script = (
        "mount -t tmpfs none /sys/fs/cgroup; mkdir /sys/fs/cgroup/unified; "
        "mount -t cgroup2 none /sys/fs/cgroup/unified"
    )
    subprocess.run(["sh", "-ec", script], check=True)
    try:
        yield
    finally:
        # One by one: --recursive takes off the whole stack of mounts, the
        # libvirtd's own among it, from util-linux 2.39 on.
        for point in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            subprocess.run(["umount", point], check=True)


HYBRID = "hybrid, with version 2 on /sys/fs/cgroup/unified: libvirt cannot"


def test_hybrid_cgroups(cli: CommandLine) -> None:
    with hybrid_cgroups():
        status, message, remedy = check(cli).row("cgroups")
        # It is libvirtd that must not have them, wherever this runs.
        apart = check(cli, "umount -R /sys/fs/cgroup")
    assert status == "FAIL"
    assert message.startswith(HYBRID)
    assert "systemd.unified_cgroup_hierarchy=1" in remedy
    assert apart.row("cgroups") == (status, message, remedy)
    assert check(cli).status("cgroups") != "FAIL"


def test_no_cgroups(cli: CommandLine) -> None:
    found = check(cli, f"{HIDE_LIBVIRT}; umount -R /sys/fs/cgroup")
    assert found.row("cgroups") == (
        "FAIL",
        "no cgroup filesystem is mounted below /sys/fs/cgroup",
        "mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    )


def test_version_2_of_cgroups(cli: CommandLine) -> None:
    found = check(cli, f"{HIDE_LIBVIRT}; mount -t cgroup2 none /sys/fs/cgroup")
    expected = "PASS" if has_machined() else "WARN"
    assert found.status("cgroups") == expected
    assert found.rows["cgroups"]["message"].startswith("version 2")


def test_no_libvirtd(cli: CommandLine) -> None:
    found = check(cli, HIDE_LIBVIRT)
    status, message, remedy = found.row("libvirt")
    assert status == "FAIL"
    assert message.startswith("libvirt: connect to lxc:///: ")
    assert remedy.startswith("start libvirtd or virtlxcd")
    assert found.status("security driver") == "WARN"
    assert found.status("mounts in run_path") == "WARN"
    assert "not known" in found.rows["mounts in run_path"]["message"]


def test_no_lxc_driver(cli: CommandLine) -> None:
    hide = "for each in /usr/lib*/libvirt /usr/lib/*/libvirt; do "
    hide += 'if [ -d "$each/connection-driver" ]; then '
    hide += 'mount -t tmpfs none "$each/connection-driver"; fi; done'
    status, _, remedy = check(cli, f"{HIDE_LIBVIRT}; {hide}").row("libvirt")
    assert status == "FAIL"
    assert remedy.startswith("install libvirt-daemon-driver-lxc ")


def test_libvirtd_does_not_see_our_mounts(cli: CommandLine) -> None:
    status, message, remedy = check(cli, ":").row("mounts in run_path")
    assert status == "FAIL"
    assert message.startswith("libvirtd (process ")
    assert message.endswith(f"below {cli.run.parent} does not reach it")
    assert "one mount namespace" in remedy


def test_our_mounts_reach_libvirtd(cli: CommandLine) -> None:
    cli.run.mkdir(mode=0o711)
    script = 'mount --bind "$0" "$0"; mount --make-shared "$0"'
    subprocess.run(["sh", "-ec", script, cli.run], check=True)
    apart = ("unshare", "--mount", "--propagation", "unchanged")
    found = read(cli("host", "check", "-f", "json", prefix=apart))
    (cli.run / "probe").mkdir()
    subprocess.run(
        [*apart, "mount", "-t", "tmpfs", "none", cli.run / "probe"], check=True
    )
    # It told the truth: this is where libvirtd is.
    assert cli.mounts() == [str(cli.run / "probe")]
    assert found.row("mounts in run_path") == (
        "PASS",
        f"what is mounted below {cli.run} reaches "
        + found.rows["mounts in run_path"]["message"].partition("reaches ")[2],
        "",
    )
    assert "libvirtd (process " in found.rows["mounts in run_path"]["message"]


def in_a_user_namespace(cli: CommandLine, limit: int) -> Report:
    script = f'echo {limit} >{LIMIT}; exec "$@"'
    prefix = (*NESTED, script, "sh")
    return read(cli("host", "check", "-f", "json", prefix=prefix))


def test_no_user_namespaces(cli: CommandLine) -> None:
    before = Path(LIMIT).read_text()
    found = in_a_user_namespace(cli, 0)
    remedy = (
        "raise sysctl user.max_user_namespaces to 1024 or more, in "
        "/etc/sysctl.d"
    )
    assert found.row("number of user namespaces") == (
        "FAIL",
        "sysctl user.max_user_namespaces is 0: the kernel makes none",
        remedy,
    )
    status, message, advice = found.row("user namespaces")
    assert status == "FAIL"
    assert message.startswith("the kernel makes none: ")
    assert advice.startswith(remedy)
    assert found.status("idmapped mounts") == "WARN"
    assert found.row("root") == (
        "WARN",
        "this is root in a user namespace",
        "run this as root of the host",
    )
    assert Path(LIMIT).read_text() == before


def test_few_user_namespaces(cli: CommandLine) -> None:
    found = in_a_user_namespace(cli, 7)
    assert found.status("user namespaces") == "PASS"
    status, message, _ = found.row("number of user namespaces")
    assert status == "WARN"
    assert message.startswith("sysctl user.max_user_namespaces is 7: ")


def test_somebody_who_is_not_root(cli: CommandLine) -> None:
    cli.config.chmod(0o644)
    found = check(cli, prefix=NOBODY)
    assert found.row("root") == (
        "FAIL",
        "this is user 65534; root is needed",
        "run this as root of the host",
    )
    assert found.status("state_path") == "FAIL"
    assert found.status("kernel") == "PASS"


@pytest.mark.parametrize("path", ["/proc/sys/user", "/proc"])
def test_parts_of_proc_are_missing(cli: CommandLine, path: str) -> None:
    found = check(cli, f"mount -t tmpfs none {path}")
    assert found.row("number of user namespaces") == (
        "WARN",
        f"{LIMIT}: No such file or directory",
        "see that /proc is mounted, and this is Linux 4.9 or later",
    )
    assert found.status("shared limits") == "WARN"
    # What is not seen is not taken for a kernel that has none.
    assert found.status("user namespaces") == "PASS"


def with_switches(cli: CommandLine, *values: int) -> Report:
    kernel = "/proc/sys/kernel"
    script = [f"mount -t tmpfs none {kernel}"]
    for name, value in zip(SWITCHES, values, strict=False):
        path = f"/proc/sys/{name.replace('.', '/')}"
        script.append(f"echo {value} >{path}")
    return check(cli, "; ".join(script))


@pytest.mark.parametrize(("name", "mode"), [("state", 0o700), ("run", 0o711)])
def test_directories_that_a_start_refuses(
    cli: CommandLine, busybox_rootfs: Path, name: str, mode: int
) -> None:
    """Both checks and the start say the same, and nothing is changed."""
    path = cli.state if name == "state" else cli.run
    path.mkdir()
    path.chmod(0o755)
    wrong = f"{path} has mode 0755, it may have {mode:04o} at most"
    remedy = f"chmod {mode:04o} {path}"
    option = f"[lxc_userns] {name}_path"
    assert check(cli).row(f"{name}_path") == ("FAIL", wrong, remedy)
    checked = cli("config", "check", "-f", "json")
    assert checked.code == 1
    assert [
        (row["option"], row["message"])
        for row in json.loads(checked.out)
        if row["severity"] == "problem"
    ] == [(option, f"{wrong}; {remedy}")]
    run = cli("container", "run", "web1", "--rootfs", busybox_rootfs)
    assert run.error() == f"{option} = {path}: {wrong}; {remedy}"
    assert (busybox_rootfs / "bin/busybox").stat().st_uid == 0
    assert [*path.iterdir()] == []
    path.chmod(mode)
    assert check(cli).status(f"{name}_path") == "PASS"


def test_switches(cli: CommandLine) -> None:
    found = with_switches(cli, 0, 1)
    for name, allows in zip(SWITCHES, (1, 0), strict=True):
        status, message, remedy = found.row(name)
        assert status == "WARN"
        assert "no obstacle to libvirt's containers" in message
        assert remedy.endswith(f"set it to {allows}")
    assert found.status("user namespaces") == "PASS"
    found = with_switches(cli, 1, 0)
    assert {found.status(name) for name in SWITCHES} == {"PASS"}


def test_no_switches(cli: CommandLine) -> None:
    assert not {*SWITCHES} & {*with_switches(cli).rows}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (
            "nsenter",
            (
                "FAIL",
                "not installed: nsenter",
                "install util-linux (so named in Debian)",
            ),
        ),
        (
            "zstd",
            (
                "WARN",
                "not installed: zstd; they unpack archives",
                "install zstd (so named in Debian)",
            ),
        ),
    ],
)
def test_programs(
    cli: CommandLine, name: str, row: tuple[str, str, str]
) -> None:
    # What cannot be executed is no program.
    script = f'mount --bind /etc/passwd "$(command -v {name})"'
    assert check(cli, script).row("programs") == row


@pytest.mark.parametrize(
    ("strategy", "status"),
    [("auto", "WARN"), ("idmapped", "FAIL")],
)
def test_a_kernel_without_idmapped_mounts(
    cli: CommandLine, strategy: str, status: str
) -> None:
    with cli.config.open("a") as config:
        config.write(f"rootfs_strategy = {strategy}\n")
    call = "mount_setattr"
    found = check(
        cli,
        prefix=(
            *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"),
            *("-e", f"inject={call}:error=ENOSYS"),
        ),
    )
    assert found.status("kernel") == status
    assert "no idmapped mounts" in found.rows["kernel"]["message"]
    assert found.status("overlays") == "WARN"


@pytest.mark.parametrize(
    ("option", "checks"),
    [
        (
            "state_path",
            ("state_path", "overlays"),
        ),
        ("run_path", ("run_path", "mounts in run_path")),
    ],
)
def test_options_that_are_wrong(
    cli: CommandLine, option: str, checks: tuple[str, ...]
) -> None:
    with cli.config.open("a") as config:
        config.write(f"{option} = relative\n")
    found = check(cli)
    for name in checks:
        status, message, remedy = found.row(name)
        assert status == "FAIL"
        assert message.startswith(f"[lxc_userns] {option} = relative: ")
        assert f" --config-file {cli.config} config check" in remedy


def test_a_range_for_new_users_that_meets_no_one(
    cli: CommandLine, tmp_path: Path
) -> None:
    text = "SUB_UID_MAX 524287\nSUB_GID_MAX 524287\n"
    (tmp_path / "login.defs").write_text(text)
    script = f"mount --bind {tmp_path}/login.defs /etc/login.defs"
    assert check(cli, script).status("range for new users") == "PASS"
