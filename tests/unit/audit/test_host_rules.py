# SPDX-License-Identifier: Apache-2.0
"""Rules that need the host, with a host that is made up."""

import pytest
from lxml import etree

from lxc_userns.audit import host_rules
from lxc_userns.audit.filesystems import FilesystemEntry, read_filesystems
from lxc_userns.audit.finding import Rule, Violation
from lxc_userns.linux.mounts import Mount
from tests.unit.audit.documents import domain, filesystem, id_map


def parsed(**parts: str) -> etree._Element:
    return etree.fromstring(domain(**parts))


def seen(*elements: str) -> list[FilesystemEntry]:
    return read_filesystems(parsed(root="", devices="".join(elements)))


def brief(found: list[Violation]) -> list[tuple[str, str]]:
    return [(each.rule.code, each.message) for each in found]


def test_overlaps() -> None:
    one = parsed(idmap=id_map("0:2013265920:65536", "0:1900000000:65536"))
    others = {
        "next": parsed(idmap=id_map("0:2013331456:9", "0:1800000000:9")),
        "last": parsed(idmap=id_map("0:1:9,9:2013331455:1", "0:1800000000:9")),
        "none": parsed(idmap=""),
        "empty": parsed(idmap=id_map("0:2013265920:0")),
    }
    (violation,) = host_rules.find_overlaps(one, others)
    assert violation.rule is host_rules.IDS_OF_CONTAINER
    assert violation.element.tag == "uid"
    assert violation.message == (
        "host IDs of the uid entry 0:2013265920:65536 are those of the "
        "running container 'last' too"
    )


def mount(point: str, device: str, root: str = "/") -> Mount:
    return Mount(1, point, "any", device=device, root=root)


HOST = (
    mount("/", "8:1"), mount("/dev", "0:5"), mount("/srv", "8:2"),
    mount("/run/x/web/root", "8:1", "/srv/other"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (mount("/srv/web/mnt", "8:1", "/etc"), "'/etc' of the host: the ho"),
        (mount("/srv/web/dev", "0:5"), "'/dev' of the host: devices"),
        (mount("/srv/web/dev/x", "0:5", "/x"), "'/dev/x' of the host: dev"),
        (mount("/srv/web/all", "8:1"), "'/' of the host: /run is in it"),
        # Of this container alone, or of no account.
        (mount("/srv/web/tmp", "0:9"), None),
        (mount("/srv/web/data", "8:2", "/data"), None),
        (mount("/srv/web", "8:1", "/etc"), None),
        (mount("/srv/website", "8:1", "/etc"), None),
    ],
)
def test_mounted_below_the_root(found: Mount, said: str | None) -> None:
    entries = seen(filesystem("/srv/web", "/"), filesystem("/srv", "/x"))
    violations = [*host_rules.find_mounted(entries, [*HOST, found], "/run/x")]
    if said is None:
        assert violations == []
    else:
        (violation,) = violations
        assert violation.rule is host_rules.MOUNTED_BELOW
        assert violation.element is entries[0].element
        assert said in violation.message


def test_nothing_is_below_what_is_no_directory_of_its_own() -> None:
    below = mount("/srv/web/mnt", "8:1", "/etc")
    entries = seen(filesystem("/", "/"), filesystem("", "/"))
    assert [*host_rules.find_mounted(entries, [*HOST, below], "/run/x")] == []


def test_user_and_group_ids_are_no_overlap() -> None:
    one = parsed(idmap=id_map("0:2013265920:65536", "0:1900000000:65536"))
    other = parsed(idmap=id_map("0:1900000000:65536", "0:2013265920:65536"))
    assert [*host_rules.find_overlaps(one, {"other": other})] == []


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        (filesystem("/srv/x"), filesystem("/srv/x"), True),
        (filesystem("/srv/x"), filesystem("/srv/x", readonly=True), True),
        (filesystem("/srv/x", readonly=True), filesystem("/srv/x"), True),
        (
            filesystem("/srv/x", readonly=True),
            filesystem("/srv/x", readonly=True),
            False,
        ),
        (filesystem("/srv/x/"), filesystem("/srv/x/y"), True),
        (filesystem("/srv/x/y"), filesystem("//srv/x"), True),
        (filesystem("/srv/x"), filesystem("/srv/xy"), False),
        (filesystem("64", kind="ram"), filesystem("64", kind="ram"), False),
        (filesystem("/x", kind="bind"), filesystem("/x", kind="bind"), False),
        (filesystem("/i", kind="file"), filesystem("/i", kind="file"), True),
        (filesystem("64", kind="ram"), filesystem("/i", kind="file"), False),
        (filesystem("/i", kind="file"), filesystem("64", kind="ram"), False),
    ],
)
def test_shared_sources(mine: str, theirs: str, shared: bool) -> None:
    found = [*host_rules.find_shared(seen(mine), {"other": seen(theirs)})]
    assert bool(found) == shared
    for violation in found:
        assert violation.rule is host_rules.SHARED_SOURCE
        assert "of the domain 'other' too" in violation.message


@pytest.mark.parametrize(
    ("version", "mapped", "rule"),
    [
        (1, False, host_rules.CGROUP_V1),
        (1, True, None),
        (2, False, None),
        (2, True, host_rules.CGROUP_V2),
        (None, False, None),
        (None, True, None),
    ],
)
def test_control_groups(
    version: int | None, mapped: bool, rule: Rule | None
) -> None:
    one = parsed() if mapped else parsed(idmap="")
    found = [each.rule for each in host_rules.find_cgroups(one, version)]
    assert found == ([] if rule is None else [rule])


SIX = ",".join(f"{n}:{n + 2013265920}:1" for n in range(6))


@pytest.mark.parametrize(
    ("release", "entries", "number"),
    [
        ("4.14.99-generic", SIX, 0),
        ("4.15.0", SIX, 2),
        ("4.18.0-553.el8.x86_64", SIX, 2),
        ("4.19.1", SIX, 2),
        ("4.20.0", SIX, 0),
        ("5.15.0", SIX, 0),
        ("unknown", SIX, 0),
        ("4.18.0", SIX.rpartition(",")[0], 0),
    ],
)
def test_many_entries(release: str, entries: str, number: int) -> None:
    found = [*host_rules.find_many(parsed(idmap=id_map(entries)), release)]
    assert len(found) == number
    for each in found:
        assert each.rule is host_rules.MANY_ENTRIES
        assert "has 6 " in each.message
        assert f"Linux {release}" in each.message
