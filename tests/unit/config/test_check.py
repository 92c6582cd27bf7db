# SPDX-License-Identifier: Apache-2.0
"""Findings of ``config check`` on a host."""

import os
import pwd
from pathlib import Path

import pytest
from oslo_config import cfg

from lxc_userns import own_paths
from lxc_userns.config.check import check_config
from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import ConfigError
from lxc_userns.findings import Finding, Severity
from tests.unit.id_host import IdHost

HIGH = "0:1900000000:65536"
CHECKS = dict(own_paths.CHECKS)
UID, GID = "[libvirt] uid_maps", "[libvirt] gid_maps"


@pytest.fixture
def host(id_host: IdHost, monkeypatch: pytest.MonkeyPatch) -> IdHost:
    """A host whose own paths are all right."""
    for name in own_paths.CHECKS:
        monkeypatch.setitem(own_paths.CHECKS, name, lambda _path: None)
    return id_host


def configure(
    uid: str = HIGH, gid: str = HIGH, **values: str
) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    for name, text in (("uid_maps", uid), ("gid_maps", gid)):
        entries = text.split(",") if text else []
        conf.set_override(name, entries, "libvirt")
    for name, value in values.items():
        conf.set_override(name, value, "lxc_userns")
    return conf


def check(conf: cfg.ConfigOpts) -> list[Finding]:
    """All but where the values are from."""
    return [
        each
        for each in check_config(conf)
        if not each.message.startswith("from ")
    ]


def find(conf: cfg.ConfigOpts, severity: Severity) -> list[tuple[str, str]]:
    return [
        (each.code, each.message)
        for each in check(conf)
        if each.severity == severity
    ]


@pytest.mark.usefixtures("host")
def test_a_good_configuration() -> None:
    gives = "guest IDs 0-65535 are host IDs 1900000000-1900065535"
    assert check(configure()) == [
        Finding(severity=Severity.INFO, code=UID, subject=HIGH, message=gives),
        Finding(severity=Severity.INFO, code=GID, subject=HIGH, message=gives),
    ]


@pytest.mark.usefixtures("host")
def test_no_maps_at_all() -> None:
    (finding,) = check(configure("", ""))
    assert (finding.severity, finding.code) == (
        Severity.WARN,
        "[libvirt] uid_maps, gid_maps",
    )
    assert finding.message == "are empty: user namespaces are off"


@pytest.mark.usefixtures("host")
def test_every_problem_at_once() -> None:
    conf = configure("x,0:0:1", "", run_path="run", subid_owner="lxc")
    assert [name for name, _ in find(conf, Severity.ERROR)] == [
        "[lxc_userns] run_path",
        UID,  # x is no entry
        UID,  # 0:0:1 maps to host ID 0
        GID,
        "[lxc_userns] subid_owner",
    ]


@pytest.mark.usefixtures("host")
def test_a_pool_that_cannot_be_read_is_one_problem_among_others() -> None:
    conf = configure("", "", run_path="run", subid_owner="$nosuch")
    assert [name for name, _ in find(conf, Severity.ERROR)] == [
        "[lxc_userns] subid_owner",
        "[lxc_userns] run_path",
    ]


@pytest.mark.parametrize(
    ("names", "subuid", "holders"),
    [
        ({1899999999: "a", 1900065536: "b"}, "", []),
        ({1900000000: "alice"}, "", ["user alice (1900000000)"]),
        ({1900065535: "bob"}, "", ["user bob (1900065535)"]),
        (
            {},
            "carol:1900065535:1\n",
            ["the subordinate user IDs of carol (1900065535:1)"],
        ),
        ({}, "carol:1900065536:1\nlxc-userns:1900000000:65536\n", []),
    ],
)
def test_ids_that_others_hold(
    host: IdHost,
    names: dict[int, str],
    subuid: str,
    holders: list[str],
) -> None:
    host.users = names
    host.hold(subuid)
    expected = [
        (UID, f"host IDs 1900000000-1900065535 are held by {holder}")
        for holder in holders
    ]
    assert find(configure(), Severity.ERROR) == expected


POOL = "[lxc_userns] subid_owner"
LINE = "lxc:2000000000:131072\n"


def test_a_good_pool(host: IdHost) -> None:
    host.hold(LINE, LINE + "lxc:2000200000:65536\n")
    assert check(configure("", "", subid_owner="lxc")) == [
        Finding(
            severity=Severity.INFO, code=POOL, subject=value, message=message
        )
        for value, message in (
            ("2000000000:131072", "user IDs 2000000000-2000131071 are in the "
             "pool"),
            ("2", "the pool has user IDs for 2 leases of 65536"),
            ("2000000000:131072", "group IDs 2000000000-2000131071 are in "
             "the pool"),
            ("2000200000:65536", "group IDs 2000200000-2000265535 are in the "
             "pool"),
            ("3", "the pool has group IDs for 3 leases of 65536"),
        )
    ]  # fmt: skip


def test_pools_that_are_none(host: IdHost) -> None:
    host.hold("", LINE.replace("131072", "65535"))
    conf = configure("", "", subid_owner="lxc")
    advice = "add the line lxc:2013265920:65536000 to /etc/sub"
    assert find(conf, Severity.ERROR) == [
        (POOL, f"lxc has no subordinate user IDs in /etc/subuid; {advice}uid"),
        (
            POOL,
            "the 65535 subordinate group IDs of lxc in /etc/subgid have no "
            f"room for 65536; {advice}gid",
        ),
    ]


def test_what_is_unwise_about_a_pool(
    host: IdHost,
) -> None:
    host.hold("lxc:60000:600000\nbob:100000:5\n", LINE)
    conf = configure("", "", subid_owner="lxc", range_size="1000")
    held = "held by the subordinate user IDs of bob (100000:5)"
    found = find(conf, Severity.WARN)
    for (name, message), (option_name, part) in zip(
        found,
        [
            (POOL, "60000:5534 uses host IDs below 65536"),
            (POOL, "65536:594464 lies in 524288-1879048191"),
            (POOL, held),
            ("[lxc_userns] range_size", "fewer than 65536 IDs"),
        ],
        strict=True,
    ):
        assert name == option_name
        assert part in message
    assert find(conf, Severity.ERROR) == []


@pytest.mark.allow_subprocess
def test_a_pool_that_cannot_be_asked_for(
    host: IdHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.file("/etc/nsswitch.conf").write_text("subid: sss\n")
    monkeypatch.setenv("PATH", "/nonexistent")
    conf = configure("", "", subid_owner="lxc")
    assert find(conf, Severity.ERROR) == [
        (
            POOL,
            "/etc/nsswitch.conf has the subordinate IDs come from 'sss', and "
            "getsubids, which asks it, is not installed (Debian package "
            "uidmap)",
        )
    ]


@pytest.mark.parametrize("owner", ["-g", "a:b", "a b", "#x", "a\nb", "a\0b"])
@pytest.mark.usefixtures("host")
def test_owners_that_are_none(owner: str) -> None:
    conf = configure("", "", subid_owner=owner)
    assert find(conf, Severity.ERROR) == [
        (POOL, "the name or the number of a user is needed")
    ]


@pytest.mark.usefixtures("host")
def test_leases_too_small_for_a_terminal() -> None:
    conf = configure("", "", subid_owner="lxc", range_size="5")
    assert find(conf, Severity.ERROR) == [
        (
            "[lxc_userns] range_size",
            "is too small: guest group 5 (tty) has to be mapped",
        )
    ]
    # It says nothing while there is no pool.
    assert find(configure(range_size="5"), Severity.ERROR) == []


@pytest.mark.usefixtures("host")
def test_directories_that_a_start_refuses(
    passable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = passable_path / "run"
    run.mkdir()
    run.chmod(0o755)
    state = str(passable_path / "not/yet")
    conf = configure(run_path=str(run), state_path=state)
    for name, check in CHECKS.items():
        monkeypatch.setitem(own_paths.CHECKS, name, check)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find(conf, Severity.ERROR) == [
        (
            "[lxc_userns] run_path",
            f"{run} has mode 0755, it may have 0711 at most; chmod 0711 {run}",
        )
    ]
    run.chmod(0o711)
    link = passable_path / "link"
    link.symlink_to(run)
    conf.set_override("roots", [str(run), str(link)], "lxc_userns_privileged")
    ((name, message),) = find(conf, Severity.ERROR)
    assert name == "[lxc_userns_privileged] roots"
    assert "is a symbolic link" in message
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find(conf, Severity.ERROR) == []


def test_ids_that_others_hold_may_be_allowed(
    host: IdHost,
) -> None:
    host.users = {1900000001: "alice"}
    (refused,) = find(configure(), Severity.ERROR)
    conf = configure(held_ids="allow")
    assert find(conf, Severity.WARN) == [refused]
    assert find(conf, Severity.ERROR) == []


def test_groups_are_compared_with_groups(
    host: IdHost,
) -> None:
    host.groups = {1900000005: "staff"}
    ((name, message),) = find(configure(), Severity.ERROR)
    assert name == GID
    assert message.endswith("are held by group staff (1900000005)")


def test_many_holders_are_not_all_listed(
    host: IdHost,
) -> None:
    names = {1900000000 + i: f"user{i}" for i in range(100)}
    host.users = names
    found = find(configure(), Severity.ERROR)
    assert len(found) == 6
    assert found[-1][1].endswith("are held by 95 more")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("uid", "message"),
    [
        ("0:1900000000:65535", "fewer than 65536 IDs"),
        ("0:20000:65536", "uses host IDs below 65536"),
        ("0:600000:65536", "systemd hands out"),
        ("0:3000000000:65536", "uses host IDs above 2147483647"),
    ],
)
def test_warnings(uid: str, message: str) -> None:
    conf = configure(uid)
    ((name, text),) = find(conf, Severity.WARN)
    assert name == UID
    assert message in text
    assert find(conf, Severity.ERROR) == []


def test_malformed_lines_are_warned_of(
    host: IdHost,
) -> None:
    host.hold(group="\nx:y\n")
    (warning,) = [
        each
        for each in check_config(configure())
        if each.severity == Severity.WARN
    ]
    assert (warning.code, warning.subject) == ("/etc/subgid", "x:y")
    assert warning.message == (
        "line 2: expected owner:start:count; the line is ignored"
    )


def test_an_option_is_read_whatever_the_others_are_like() -> None:
    conf = configure("x", run_path="run")
    assert Settings.from_conf(conf).range_size == 65536
    with pytest.raises(ConfigError, match=r"run_path = run: an absolute"):
        _ = Settings.from_conf(conf).run_path


def sources(conf: cfg.ConfigOpts) -> dict[str, tuple[str, str]]:
    return {
        each.code: (each.subject, each.message)
        for each in check_config(conf)
        if each.message.startswith("from ")
    }


@pytest.mark.usefixtures("host")
def test_where_values_are_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = str(tmp_path / "first.conf"), str(tmp_path / "last.conf")
    Path(first).write_text(
        "[lxc_userns]\nrun_path = /run/a\nshift_workers = 3\n"
    )
    Path(last).write_text("[lxc_userns]\nrun_path = /run/b\nrange_size = x\n")
    monkeypatch.setenv("OS_LXC_USERNS__MAX_PROCESSES", "77")
    monkeypatch.setenv("OS_LIBVIRT__UID_MAPS", "0:2013265920:65536")
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[first, last], default_config_dirs=[])
    conf.set_override("unmapped_ids", "error", "lxc_userns")
    found = sources(conf)
    assert found["[lxc_userns] run_path"] == (
        "/run/b",
        f"from the file {last}",
    )
    assert found["[lxc_userns] shift_workers"] == (
        "3", f"from the file {first}",
    )  # fmt: skip
    assert found["[lxc_userns] max_processes"] == (
        "77",
        "from the environment variable OS_LXC_USERNS__MAX_PROCESSES",
    )
    assert found[UID] == (
        "0:2013265920:65536",
        "from the environment variable OS_LIBVIRT__UID_MAPS",
    )
    assert found[GID] == ("", "from the default")
    assert found["[lxc_userns] unmapped_ids"] == (
        "error", "from the program, which overrides it",
    )  # fmt: skip
    # One that cannot be read has a place, too.
    value, place = found["[lxc_userns] range_size"]
    assert value.startswith("unreadable")
    assert place == f"from the file {last}"


@pytest.fixture
def files(tmp_path: Path) -> cfg.ConfigOpts:
    """A configuration of root's: a file, and one in a directory."""
    (tmp_path / "conf.d").mkdir()
    for name in ("a.conf", "conf.d/b.conf"):
        (tmp_path / name).write_text("[lxc_userns]\nsubid_owner = lxc\n")
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf(
        [],
        default_config_files=[str(tmp_path / "a.conf")] * 2,
        default_config_dirs=[str(tmp_path / "conf.d")],
    )
    return conf


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("name", "mode", "changed"),
    [
        ("a.conf", 0o644, []),
        ("a.conf", 0o664, ["a.conf"]),
        ("a.conf", 0o602, ["a.conf"]),
        ("conf.d/b.conf", 0o666, ["conf.d/b.conf"]),
        ("conf.d", 0o775, ["conf.d/b.conf", "conf.d/.conf"]),
    ],
)
def test_files_that_others_may_write_are_warned_of(
    files: cfg.ConfigOpts,
    tmp_path: Path,
    name: str,
    mode: int,
    changed: list[str],
) -> None:
    """Their content decides what root does."""
    (tmp_path / name).chmod(mode)
    assert [
        code
        for code, message in find(files, Severity.WARN)
        if "others may write it" in message
    ] == [str(tmp_path / each) for each in changed]


DIRECTORY = "200000-2000199999, which SSSD and FreeIPA give to users"
SUBIDS = "2147483648-4294836223, which FreeIPA gives to users as subordinate"


@pytest.mark.parametrize(
    ("nsswitch", "ids", "advice"),
    [
        ("passwd: files sss\n", "1900000000:65536", [DIRECTORY]),
        ("group: files winbind\n", "2000199999:65536", [DIRECTORY]),
        ("group: ldap [NOTFOUND=return]\n", "134464:65537", [DIRECTORY]),
        ("passwd: sss\n", "134464:65536", []),
        ("passwd: sss\n", "2000200000:65536", []),
        ("passwd: sss\n", "2147418113:65536", [SUBIDS]),
        ("passwd: sss\n", "4294836224:65536", []),
        ("passwd: sss\n", "1000000000:2000000000", [DIRECTORY, SUBIDS]),
        ("passwd: files systemd # sss\n", "1900000000:65536", []),
        ("shadow: sss\npasswd: files [sss=x]\n", "1900000000:65536", []),
        ("", "1900000000:65536", []),
    ],
)
def test_ids_that_directory_services_give(
    host: IdHost,
    nsswitch: str,
    ids: str,
    advice: list[str],
) -> None:
    """They are maps for all, and a pool."""
    host.file("/etc/nsswitch.conf").write_text(nsswitch)
    host.hold(f"lxc:{ids}\n", f"lxc:{ids}\n")
    pool = configure("", "", subid_owner="lxc")
    host_maps = f"0:{ids}"
    for conf, names in (
        (pool, (POOL, POOL)),
        (configure(host_maps, host_maps), (UID, GID)),
    ):
        if names[0] == UID:
            host.hold("", "")
        said = [
            (name, message)
            for name, message in find(conf, Severity.WARN)
            if "/nsswitch.conf names" in message
        ]
        assert [name for name, _ in said] == [
            name for name in names for _ in advice
        ]
        for message, (_, text) in zip(advice * 2, said, strict=True):
            assert message in text
            assert "take IDs of 2000200000-2147483647" in text


def test_users_whom_a_directory_service_does_not_list(host: IdHost) -> None:
    host.file("/etc/nsswitch.conf").write_text("passwd: files nis\n")
    entry = pwd.struct_passwd(("carol", "x", 1, 1, "", "/", ""))
    users = {1900065535: entry, 2013265920: entry}
    host.find_user = users.__getitem__
    assert find(configure(), Severity.ERROR) == [
        (UID, "host IDs 1900000000-1900065535 are held by user carol "
         "(1900065535)"),
    ]  # fmt: skip
    line = "lxc:2013265920:131072\n"
    host.hold(line, line)
    assert find(configure("", "", subid_owner="lxc"), Severity.WARN) == [
        (POOL, "has IDs of a directory service, as user carol (2013265920); "
         "lease from others"),
    ]  # fmt: skip


def test_in_a_user_namespace_of_few_ids(
    host: IdHost,
) -> None:
    line = "lxc:65536:131072\nlxc:299999:65536\n"
    host.map(range(70000), range(100000, 300000))
    host.hold(line, line)
    conf = configure("", "", subid_owner="lxc")
    gives = [value for value, message in (
        (each.subject, each.message) for each in check(conf)
    ) if message.endswith("are in the pool")]  # fmt: skip
    assert gives == ["65536:4464", "100000:96608", "299999:1"] * 2
    assert (
        POOL,
        "of the user IDs in /etc/subuid, 70000:30000, 300000:65535 are not in "
        "the user namespace that this runs in (/proc/self/uid_map, gid_map), "
        "and so not in the pool",
    ) in find(conf, Severity.WARN)
    host.hold("", line)
    conf = configure("0:69999:2", "0:69000:9")
    message = find(conf, Severity.ERROR)[0][1]
    assert message.startswith("host IDs 69999-70000 are held by others, for")


def test_values_are_shown_with_all_that_is_in_them(
    host: IdHost,
) -> None:
    many = "".join(f"x{n}\n" for n in range(100))
    host.hold("lxc:1:2\r\nlxc: 1:2\n\ufefflxc:1:2\n" + many, "")
    found = [each for each in check(configure()) if "/sub" in each.code]
    assert [(each.subject, each.message) for each in found[:3]] == [
        (r"'lxc:1:2\r'", "line 1: it has a carriage return (CR); remove that; "
         "the line is ignored"),
        ("lxc: 1:2", "line 2: start and count have to be decimal integers; "
         "the line is ignored"),
        (r"'\ufefflxc:1:2'", "line 3: it has a byte-order mark (U+FEFF); "
         "remove that; the line is ignored"),
    ]  # fmt: skip
    assert len(found) == 21
    assert found[-1].message == "83 more lines like these"
