# SPDX-License-Identifier: Apache-2.0
"""A pool whose ranges come from a source that ``nsswitch.conf`` names.

The source is a real one, for shadow's own library: a plug-in that reads a
file of ours. getsubids(1) asks it.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import CommandLine
from tests.functional.lease_host import (
    NSSWITCH,
    OWNER,
    SIZE,
    HostFiles,
    acquire,
    acquire_at_once,
    at_once,
    findings,
    held,
    make_command_line,
    mounted_host_files,
    nth,
    starts,
)

pytestmark = pytest.mark.needs("containers")

# What shadow 4.13 asks of a plug-in, and shadow_subid_free for later ones.
# Lines of the file are: owner, 1 for users or 2 for groups, start, count.
PLUGIN = r"""
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum subid_type { ID_TYPE_UID = 1, ID_TYPE_GID = 2 };
enum subid_status { SUCCESS, UNKNOWN_USER, ERROR_CONN, ERROR };
struct subid_range { unsigned long start, count; };
enum { MOST = 16 };

enum subid_status shadow_subid_list_owner_ranges(const char *owner,
    enum subid_type type, struct subid_range **ranges, int *count)
{
    char name[64];
    int of;
    struct subid_range range;
    FILE *file = fopen(getenv("SUBID_RANGES"), "r");

    *count = 0;
    *ranges = calloc(MOST, sizeof range);
    if (!file || !*ranges)
        return ERROR_CONN;
    while (*count < MOST && fscanf(file, "%63s %d %lu %lu", name, &of,
                                   &range.start, &range.count) == 4)
        if (of == (int)type && !strcmp(name, owner))
            (*ranges)[(*count)++] = range;
    fclose(file);
    return *count ? SUCCESS : UNKNOWN_USER;
}

enum subid_status shadow_subid_has_range(const char *owner,
    unsigned long start, unsigned long count, enum subid_type type,
    bool *result)
{
    *result = false;
    return ERROR;
}

enum subid_status shadow_subid_find_subid_owners(unsigned long id,
    enum subid_type type, uid_t **uids, int *count)
{
    return ERROR;
}

void shadow_subid_free(void *ranges)
{
    free(ranges);
}
"""


@dataclass(frozen=True)
class Source:
    """The source ``zzz`` of subordinate IDs."""

    library: Path
    ranges: Path

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment by which getsubids finds it."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.library.parent),
            "SUBID_RANGES": str(self.ranges),
        }

    @property
    def without_getsubids(self) -> dict[str, str]:
        """The same where that is not installed."""
        return {**self.environment, "PATH": str(self.library.parent)}

    def give(self, *lines: str) -> None:
        """Make these all of its lines."""
        self.ranges.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plug-in, compiled."""
    library = tmp_path_factory.mktemp("plugin") / "libsubid_zzz.so"
    code = library.with_suffix(".c")
    code.write_text(PLUGIN)
    argv = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror"]
    subprocess.run([*argv, "-o", library, code], check=True, timeout=60)
    return library


@pytest.fixture
def host_files(
    libvirt_connection: libvirt.virConnect, tmp_path: Path
) -> Iterator[HostFiles]:
    """Files of the host; a range in them is not what the source says."""
    with mounted_host_files(tmp_path / "etc") as files:
        files.give(f"{OWNER}:{nth(50)}:{SIZE}")
        yield files


@pytest.fixture
def source(host_files: HostFiles, library: Path, tmp_path: Path) -> Source:
    """The source, which is the one that is asked."""
    host_files.append("nsswitch.conf", "subid: zzz")
    return Source(library, tmp_path / "ranges")


@pytest.fixture
def cli(
    host_files: HostFiles, tmp_path: Path, reachable_path: Path
) -> CommandLine:
    """The program, for leases of 1000 IDs."""
    return make_command_line(tmp_path, reachable_path / "run")


def test_the_ranges_of_the_source_are_the_pool(
    cli: CommandLine, source: Source, host_files: HostFiles
) -> None:
    source.give(
        f"{OWNER} 1 {nth(0)} {SIZE}",
        f"eve 1 {nth(3)} {SIZE}",
        f"{OWNER} 1 {nth(7)} {SIZE}",
        f"{OWNER} 2 {nth(20)} {2 * SIZE}",
    )
    # Whom the files have a range for, that one holds it all the same.
    host_files.append("subuid", f"eve:{nth(0) + 5}:1")
    given, errors = acquire_at_once(cli, "a", "b", env=source.environment)
    assert given == [(nth(7), nth(20))]
    (error,) = errors
    assert error.endswith(
        f": {SIZE} of its {2 * SIZE} IDs are leased; some are held by the "
        f"subordinate user IDs of eve ({nth(0) + 5}:1)"
    )


def test_an_owner_whom_the_source_does_not_know(
    cli: CommandLine, source: Source
) -> None:
    source.give(f"eve 1 {nth(0)} {SIZE}", f"{OWNER} 2 {nth(0)} {SIZE}")
    acquired, check = at_once(
        *(cli, "lease acquire a", "config check -f json"),
        env=source.environment,
    )
    told = (
        f"{OWNER} has no subordinate user IDs in the source zzz of "
        f"subordinate IDs; give it {SIZE} or more there that no one has"
    )
    error = f"[lxc_userns] subid_owner = {OWNER}: {told}"
    assert acquired.error() == error
    assert [
        each["message"]
        for each in findings(check, 1)
        if each["severity"] == "problem"
    ] == [told]


@pytest.mark.parametrize("line", ["# subid: zzz", "subid: files zzz"])
def test_the_files_are_the_source_unless_another_is_named(
    cli: CommandLine, source: Source, host_files: HostFiles, line: str
) -> None:
    host_files["nsswitch.conf"].write_text(f"{NSSWITCH}{line}\n")
    source.give(f"{OWNER} 1 {nth(0)} {SIZE}", f"{OWNER} 2 {nth(0)} {SIZE}")
    # Then no one asks it.
    argv = ("lease", "acquire", "a", "-f", "json")
    lease = cli(*argv, env=source.without_getsubids).json()
    assert starts(lease) == (nth(50), nth(50))


def test_a_source_in_capitals(
    cli: CommandLine, source: Source, host_files: HostFiles
) -> None:
    """shadow ignores the case of ``subid``."""
    host_files["nsswitch.conf"].write_text(f"{NSSWITCH}SUBID: zzz\n")
    source.give(f"{OWNER} 1 {nth(0)} {SIZE}", f"{OWNER} 2 {nth(0)} {SIZE}")
    argv = ("lease", "acquire", "a", "-f", "json")
    lease = cli(*argv, env=source.environment).json()
    assert starts(lease) == (nth(0), nth(0))


def test_getsubids_is_not_installed(cli: CommandLine, source: Source) -> None:
    acquired, check = at_once(
        *(cli, "lease acquire a", "config check -f json"),
        env=source.without_getsubids,
    )
    told = (
        "/etc/nsswitch.conf has the subordinate IDs come from 'zzz', and "
        "getsubids, which asks it, is not installed (Debian package uidmap)"
    )
    assert acquired.error() == told
    assert [
        (each["option"], each["message"])
        for each in findings(check, 1)
        if each["severity"] == "problem"
    ] == [("[lxc_userns] subid_owner", told)]


def test_nonsense_is_not_guessed_at(
    cli: CommandLine, source: Source, host_files: HostFiles
) -> None:
    good = [f"{OWNER} {kind} {nth(0)} {SIZE}" for kind in (1, 2)]
    for start, count in (
        (nth(1), 0),
        (2**32 - SIZE, SIZE),
        (2**64 - 1, SIZE),
    ):
        source.give(*good, f"{OWNER} 2 {start} {count}")
        error = cli("lease", "acquire", "a", env=source.environment).error()
        assert error.startswith(
            "/etc/nsswitch.conf has the subordinate IDs come from 'zzz', of "
            f"which getsubids says '1: {OWNER} {start} {count}': "
        )
    host_files["nsswitch.conf"].write_text(NSSWITCH)
    assert held(cli) == {}


def test_a_lease_stays_while_the_source_cannot_be_asked(
    cli: CommandLine, source: Source, host_files: HostFiles
) -> None:
    host_files["nsswitch.conf"].write_text(NSSWITCH)
    lease = acquire(cli, "a")
    host_files.append("nsswitch.conf", "subid: zzz")
    again, listed = at_once(
        *(cli, "lease acquire a -f json", "lease list -f json"),
        env=source.without_getsubids,
    )
    assert starts(json.loads(again.out)) == lease
    assert [starts(each) for each in json.loads(listed.out)] == [lease]
    for result in (again, listed):
        assert result.code == 0
        assert result.err.startswith("warning: /etc/nsswitch.conf has the ")
