# SPDX-License-Identifier: Apache-2.0
"""Leases where something is lost, damaged, newer, hidden, or not there."""

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import libvirt
import pytest

from lxc_userns.linux import user_namespaces
from tests.functional.command_line import BASE, CommandLine
from tests.functional.lease_host import (
    INIT,
    NSSWITCH,
    OWNER,
    SIZE,
    WHOLE,
    HostFiles,
    acquire,
    both,
    cli,
    container_cli,
    findings,
    held,
    host_files,
    nth,
    run,
    start_of,
    starts,
)

__all__ = ["cli", "container_cli", "host_files"]

pytestmark = pytest.mark.needs("containers")

# A directory service that has one user, and lists none.
SERVICE = r"""
#include <nss.h>
#include <pwd.h>
#include <stdlib.h>

enum nss_status _nss_unlisted_getpwuid_r(uid_t uid, struct passwd *found,
    char *buffer, size_t size, int *error)
{
    if (uid != strtoul(getenv("UNLISTED"), NULL, 10))
        return NSS_STATUS_NOTFOUND;
    *found = (struct passwd){"carol", "x", uid, uid, "", "/", "/bin/false"};
    return NSS_STATUS_SUCCESS;
}
"""


@contextmanager
def changed(file: Path, content: bytes) -> Iterator[None]:
    """A file with other content for a while."""
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def test_a_database_that_is_lost_while_containers_are_there(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """Each name has what it had: by its record, and without one."""
    cli = container_cli
    host_files.give_ranges(5, WHOLE)
    options = ("--strategy", "overlay")
    begin = {
        name: run(cli, name, busybox_rootfs, *options)
        for name in ("one", "two", "three")
    }
    assert cli("container", "stop", "two", "--timeout", "0").code == 0
    database = cli.state / "leases.sqlite3"
    record = cli.state / "instances/three.json"
    kept = record.read_bytes()
    database.unlink()
    result = cli("lease", "list", "-f", "json")
    assert (result.code, json.loads(result.out)) == (0, [])
    assert result.err.startswith(f"warning: {database} has no leases, and ")
    assert ": one, three, two; if it was lost, restore" in result.err
    database.touch()
    record.unlink()
    try:
        found = {}
        for name in ("three", "two", "one", "new"):
            result = cli("lease", "acquire", name, "-f", "json")
            found[name] = starts(json.loads(result.out))
            assert ("has no leases" in result.err) == (name == "three")
    finally:
        record.write_bytes(kept)
    assert found == {**begin, "new": both(3, size=WHOLE)[0]}
    assert start_of(cli.json("container", "start", "two")) == begin["two"]


def test_a_uuid_means_the_same_as_the_name(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    libvirt_connection: libvirt.virConnect,
) -> None:
    """Also of a domain without a record, whose lease was lost."""
    cli = container_cli
    host_files.give_ranges(5, WHOLE)
    begin = run(cli, "web", busybox_rootfs, "--strategy", "overlay")
    uuid = libvirt_connection.lookupByName("web").UUIDString()
    shown = cli.json("container", "show", "web")
    assert cli.json("container", "show", uuid) == shown
    assert cli.json("container", "verify", uuid.upper())["name"] == "web"
    database = cli.state / "leases.sqlite3"
    record = cli.state / "instances/web.json"
    kept = record.read_bytes()

    def acquired(name: str) -> tuple[str, tuple[int, int]]:
        result = cli("lease", "acquire", name, "-f", "json")
        assert result.code == 0, result
        lease = json.loads(result.out)
        return lease["instance"], starts(lease)

    try:
        for has_record in (True, False):
            if not has_record:
                record.unlink()
            database.unlink()
            assert acquired(uuid) == ("web", begin)
        assert acquired("web") == ("web", begin)
        assert held(cli) == {"web": begin}
        assert cli("lease", "release", uuid).code == 1  # It is in use.
        assert cli.json("container", "verify", uuid)["name"] == "web"
        # One that was leased for the UUID is that of the name.
        with closing(sqlite3.connect(database)) as leases, leases:
            lease = leases.execute("SELECT * FROM lease").fetchone()
            leases.execute("DELETE FROM lease")
            marks = ", ".join("?" * len(lease))
            leases.execute(
                f"INSERT INTO lease VALUES ({marks})",  # noqa: S608
                (uuid, *lease[1:]),
            )
        assert acquired("web") == (uuid, begin)
    finally:
        record.write_bytes(kept)
        database.unlink()
    assert acquired(uuid) == ("web", begin)
    assert cli("container", "stop", uuid, "--timeout", "0").code == 0
    assert start_of(cli.json("container", "start", uuid)) == begin
    assert cli("container", "destroy", uuid).code == 0
    assert cli("container", "show", uuid).code == 5


@pytest.mark.parametrize("is_newer", [True, False])
def test_one_record_that_cannot_be_read(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    host_files: HostFiles,
    is_newer: bool,
) -> None:
    """All others go on, and no one gets what it has."""
    cli = container_cli
    host_files.give_ranges(3, WHOLE)
    options = ("--strategy", "overlay")
    rest = ("--rootfs", str(busybox_rootfs), "--init", INIT, *options)
    begin = run(cli, "bad", busybox_rootfs, *options)
    run(cli, "good", busybox_rootfs, *options)
    record = cli.state / "instances/bad.json"
    data = json.loads(record.read_bytes()) | {"format": 5}
    content = json.dumps(data).encode() if is_newer else b"{"
    what = (
        "is of a newer version of lxc-userns (format 5, "
        if is_newer
        else ("is damaged: ")
    )
    said = f"bad: its record {record} {what}"
    with changed(record, content):
        listed = cli("container", "list", "-f", "json")
        names = [each["name"] for each in json.loads(listed.out)]
        assert (listed.code, names) == (0, ["good"])
        assert listed.err.startswith(f"warning: {said}")
        for command in ("stop good", "start good", "verify good"):
            assert cli("container", *command.split()).code == 0
        assert cli("domain", "audit", "good").code in (0, 1)
        cli.json("container", "run", "third", *rest)
        assert "no range" in cli("lease", "acquire", "fourth").error()
        for command in (
            *("container show bad", "container stop bad", "domain audit bad"),
            *("container destroy bad", "container start bad"),
            *("lease release bad", "container verify bad"),
        ):
            error = cli(*command.split()).error()
            assert error.startswith(said)
            assert ("remove" in error) is False
        assert held(cli)["bad"] == begin
        error = cli("rootfs", "shift", busybox_rootfs,
                    "--uid-map", f"0:{BASE}:{WHOLE}",
                    "--gid-map", f"0:{BASE}:{WHOLE}").error()  # fmt: skip
        assert "instance" in error
        # Nor is its lease collected, though its container is gone.
        found = cli.json("lease", "gc", "--grace-period", "0")
        assert found == []
    assert cli("container", "verify", "bad").code == 0


def test_a_user_namespace_has_not_all_ids(
    cli: CommandLine, host_files: HostFiles
) -> None:
    """IDs that its own maps do not have are no pool, as in a container."""
    host_files.give_ranges(3)
    rows = ((0, 0, 65536), (BASE - 70000, BASE - 70000, 70000 + 2 * SIZE - 1))
    with user_namespaces.create(rows, rows) as fd:
        prefix = (
            *("nsenter", f"--user=/proc/{os.getpid()}/fd/{fd}"),
            *("--setuid=0", "--setgid=0"),
        )
        result = cli("config", "check", "-f", "json", prefix=prefix)
        absent = f"{nth(2) - 1}:{SIZE + 1} are not in the user namespace"
        assert [
            each["severity"]
            for each in findings(result, 0)
            if absent in each["message"]
        ] == ["warning", "warning"]
        first = cli("lease", "acquire", "a", "-f", "json", prefix=prefix)
        assert starts(json.loads(first.out)) == both(0)[0]
        error = cli("lease", "acquire", "b", prefix=prefix).error()
        assert f"{SIZE} of its {2 * SIZE - 1} IDs are leased" in error
        host_files.give(f"{OWNER}:{nth(2)}:{SIZE}")
        error = cli("lease", "acquire", "b", prefix=prefix).error()
        assert f"{nth(2)}:{SIZE} are not in the user namespace" in error
        assert cli("config", "check", prefix=prefix).code == 1
        # Maps for all are looked at in the same way.
        with cli.config.open("w") as file:
            file.write(
                f"[libvirt]\nuid_maps = 0:{nth(2)}:9\n"
                f"gid_maps = 0:{nth(0)}:9\n"
            )
        result = cli("config", "check", "-f", "json", prefix=prefix)
        (problem,) = (
            each
            for each in findings(result, 1)
            if each["severity"] == "problem"
        )
        assert problem["option"] == "[libvirt] uid_maps"
        assert "does not have them" in problem["message"]
    assert cli("config", "check").code == 0


def test_a_user_whom_a_directory_service_does_not_list(
    cli: CommandLine, host_files: HostFiles, tmp_path: Path
) -> None:
    source = tmp_path / "service.c"
    source.write_text(SERVICE)
    library = tmp_path / "libnss_unlisted.so.2"
    argv = ["cc", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(argv, check=True)
    host_files["nsswitch.conf"].write_text(
        NSSWITCH.replace("passwd: files", "passwd: files unlisted")
    )
    user = nth(1) + SIZE - 1
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(tmp_path),
        "UNLISTED": str(user),
    }
    host_files.give_ranges(3)
    found = []
    for name in "abc":
        argv = ["lease", "acquire", name, "-f", "json"]
        result = cli(*argv, env=environment)
        found.append(result.code or starts(json.loads(result.out)))
    assert found == [*both(0, 2), 1]
    assert f"user carol ({user})" in result.err
    host_files.give(f"{OWNER}:{nth(1)}:{SIZE}")
    result = cli("config", "check", "-f", "json", env=environment)
    (warning,) = (
        each["message"]
        for each in findings(result, 0)
        if "directory service" in each["message"]
    )
    assert f"user carol ({user})" in warning


def test_a_byte_order_mark_hides_no_one(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give(f"\ufeff{OWNER}:{BASE}:{SIZE}", f"{OWNER}:{nth(1)}:{SIZE}")
    result = cli("lease", "acquire", "a", "-f", "json")
    assert starts(json.loads(result.out)) == both(1)[0]
    for name in ("subuid", "subgid"):
        assert (
            f"/etc/{name}, line 1, '\\ufeff{OWNER}:{BASE}:{SIZE}': it has a "
            "byte-order mark (U+FEFF); remove that"
        ) in result.err


def test_ids_in_the_range_of_a_directory_service(
    cli: CommandLine, host_files: HostFiles
) -> None:
    """BASE is in that of SSSD, and what is advised is not."""
    host_files["nsswitch.conf"].write_text("passwd: files sss\n")
    host_files.give_ranges(3)
    result = cli("config", "check", "-f", "json")
    warnings = [
        each["message"]
        for each in findings(result, 0)
        if "200000-2000199999" in each["message"]
    ]
    assert len(warnings) == 2
    host_files.give()
    error = cli("lease", "acquire", "a").error()
    line = error.split("add the line ")[1].split()[0]
    assert int(line.split(":")[1]) >= 2000200000
    host_files.give(line)
    result = cli("config", "check", "-f", "json")
    assert {each["severity"] for each in findings(result, 0)} == {
        "info",
        "warning",  # of fewer than 65536 IDs
    }
    assert acquire(cli, "a")[0] == int(line.split(":")[1])


def test_where_values_are_from(
    cli: CommandLine, host_files: HostFiles
) -> None:
    host_files.give_ranges(1)
    environment = {**os.environ, "OS_LXC_USERNS__SHIFT_WORKERS": "3"}
    result = cli("config", "check", "-f", "json", env=environment)
    told = {
        each["option"]: (each["value"], each["message"])
        for each in json.loads(result.out)
        if each["message"].startswith("from ")
    }
    file = f"from the file {cli.config}"
    assert told["[lxc_userns] subid_owner"] == (OWNER, file)
    assert told["[lxc_userns] unmapped_ids"] == ("keep", "from the default")
    assert told["[lxc_userns] shift_workers"] == (
        "3", "from the environment variable OS_LXC_USERNS__SHIFT_WORKERS",
    )  # fmt: skip
