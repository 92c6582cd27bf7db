# SPDX-License-Identifier: Apache-2.0
"""Options: registered beside Nova's, every rule told, the sample current."""

import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg, generator

import lxc_userns
from lxc_userns.config import allowed_paths, options
from lxc_userns.config.settings import Settings, check_held, load_id_maps
from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.archive.limits import UnpackLimits
from tests.unit.id_host import IdHost

GENERATOR = Path(__file__).parents[3] / "etc/lxc-userns"

GOOD = "0:100000:65536"


def nova_options() -> list[cfg.Opt]:
    """Options of Nova's names, as different as Nova may make them."""
    return [
        cfg.ListOpt("uid_maps", default=[], help="Nova's own words."),
        cfg.ListOpt(
            "gid_maps", default=["0:1:2"], help="Others.", required=False
        ),
    ]


def register_nova(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(nova_options(), group="libvirt")


def configure(
    tmp_path: Path, text: str, *, register: Callable[..., None] | None = None
) -> cfg.ConfigOpts:
    """A configuration read from this text."""
    file = tmp_path / "test.conf"
    file.write_text(text)
    conf = cfg.ConfigOpts()
    (register or options.register_opts)(conf)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return conf


def maps(uid: str, gid: str, more: str = "") -> str:
    return f"[libvirt]\nuid_maps = {uid}\ngid_maps = {gid}\n{more}"


REGISTRARS = {
    "ours": options.register_opts,
    "nova": register_nova,
}


@pytest.mark.parametrize(
    "order",
    [
        order
        for length in (1, 2, 3)
        for order in itertools.product(REGISTRARS, repeat=length)
        if "ours" in order
    ],
    ids="-".join,
)
def test_registration_in_every_order(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    def register(conf: cfg.ConfigOpts) -> None:
        for name in order:
            REGISTRARS[name](conf)

    conf = configure(tmp_path, maps(GOOD, GOOD), register=register)
    expected = IdMap.parse(GOOD)
    assert load_id_maps(conf) == IdMaps(expected, expected)
    assert conf.lxc_userns.range_size == 65536


@pytest.mark.parametrize("first", ["ours", "nova"])
def test_an_option_of_another_type_is_refused(first: str) -> None:
    other = cfg.StrOpt("uid_maps", default="")
    conf = cfg.ConfigOpts()
    if first == "ours":
        options.register_opts(conf)
        with pytest.raises(cfg.DuplicateOptError, match="uid_maps"):
            conf.register_opt(other, group="libvirt")
    else:
        conf.register_opt(other, group="libvirt")
        with pytest.raises(cfg.DuplicateOptError, match="uid_maps"):
            options.register_opts(conf)


@pytest.mark.parametrize(
    "text", ["", "[libvirt]\nuid_maps =\ngid_maps =\n", "[lxc_userns]\n"]
)
def test_no_maps_is_none(tmp_path: Path, text: str) -> None:
    conf = configure(tmp_path, text)
    assert load_id_maps(conf) is None
    assert Settings.from_conf(conf).find_problems() == []


def test_uid_and_gid_maps_are_not_mixed_up(tmp_path: Path) -> None:
    gid = "0:300000:65536,70000:400000:1"
    conf = configure(tmp_path, maps(GOOD, gid))
    assert load_id_maps(conf) == IdMaps(IdMap.parse(GOOD), IdMap.parse(gid))
    assert Settings.from_conf(conf).find_problems() == []


SYNTAX = "expected guest:host:count, three decimal integers without sign"
UID, GID = "[libvirt] uid_maps", "[libvirt] gid_maps"


@pytest.mark.parametrize(
    ("uid", "gid", "message"),
    [
        ("0:100000", GOOD, f"{UID} = 0:100000: {SYNTAX}"),
        ("0:100000:65536:1", GOOD, f"{UID} = 0:100000:65536:1: {SYNTAX}"),
        ("0:-1:65536", GOOD, f"{UID} = 0:-1:65536: {SYNTAX}"),
        ("+0:100000:65536", GOOD, f"{UID} = +0:100000:65536: {SYNTAX}"),
        ("0:1 0:65536", GOOD, f"{UID} = 0:1 0:65536: {SYNTAX}"),
        ("0:0x10:65536", GOOD, f"{UID} = 0:0x10:65536: {SYNTAX}"),
        ("0:010:65536", GOOD, f"{UID} = 0:010:65536: {SYNTAX}"),
        (f",{GOOD}", GOOD, f"{UID}: {SYNTAX}"),
        ("root:100000:65536", GOOD, f"{UID} = root:100000:65536: {SYNTAX}"),
        ("0:100000:0", GOOD, f"{UID} = 0:100000:0: count is 0"),
        (
            "0:4294901760:65536",
            GOOD,
            f"{UID} = 0:4294901760:65536: host IDs end at 4294967295, the "
            "highest ID is 4294967294",
        ),
        (
            "0:99999999999:1",
            GOOD,
            f"{UID} = 0:99999999999:1: the highest ID is 4294967294",
        ),
        (
            ",".join(f"{i}:{100000 + i}:1" for i in range(6)),
            GOOD,
            "6 entries, 1 to 5 are allowed",
        ),
        (
            "0:100000:10,9:200000:1",
            GOOD,
            "guest IDs of 0:100000:10 and 9:200000:1 overlap",
        ),
        (
            "0:100000:10,10:100009:1",
            GOOD,
            "host IDs of 0:100000:10 and 10:100009:1 overlap",
        ),
        ("0:0:65536", GOOD, f"{UID} = 0:0:65536: 0:0:65536 maps to host ID 0"),
        ("1:100000:65536", GOOD, "guest ID 0 is not mapped"),
        (GOOD, "0:100000:5", f"{GID} = 0:100000:5: guest group 5 (tty) is"),
        (
            GOOD,
            "0:100000:5,5:200000:100",
            f"{GID} = 0:100000:5,5:200000:100: 5:200000:100 starts at guest",
        ),
        ("", GOOD, f"{UID}: is empty, but gid_maps is set; set both"),
        (GOOD, "", f"{GID}: is empty, but uid_maps is set; set both"),
    ],
)
def test_every_rule_of_the_maps(
    tmp_path: Path, uid: str, gid: str, message: str
) -> None:
    conf = configure(tmp_path, maps(uid, gid))
    (problem,) = Settings.from_conf(conf).find_problems()
    assert message in str(problem)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_id_maps(conf)


def test_ids_that_a_user_has_are_refused(
    tmp_path: Path, id_host: IdHost
) -> None:
    id_host.users = {100007: "alice"}
    reason = r"\[libvirt\] uid_maps = 0:100000:65536: .* user alice \(100007"
    for more in ("", "[lxc_userns]\nheld_ids = alow\n"):
        conf = configure(tmp_path, maps(GOOD, GOOD, more))
        with pytest.raises(ConfigError, match=reason):
            load_id_maps(conf)
        assert Settings.from_conf(conf).id_maps is not None
    assert [
        str(each) for each in Settings.from_conf(conf).find_problems()
    ] == [
        "[lxc_userns] held_ids: Valid values are [refuse, allow], but found "
        "'alow'"
    ]
    allowing = "[lxc_userns]\nheld_ids = allow\n"
    conf = configure(tmp_path, maps(GOOD, GOOD, allowing))
    assert load_id_maps(conf) == Settings.from_conf(conf).id_maps


def test_what_starts_nothing_asks_no_one(
    tmp_path: Path, id_host: IdHost
) -> None:
    """Maps of one's own are refused by what refuses a start."""
    id_host.users = {100007: "alice"}
    id_map = IdMap.parse(GOOD)
    id_maps = IdMaps(id_map, id_map)
    domain = (
        "<domain type='lxc'><name>web</name><memory>1</memory>"
        "<os><type>exe</type><init>/sbin/init</init></os>"
        "<devices><filesystem type='mount'><source dir='/srv/web'/>"
        "<target dir='/'/></filesystem></devices></domain>"
    )
    assert "100000" in lxc_userns.add_id_maps(domain, id_maps)
    with pytest.raises(ConfigError, match=r"user alice \(100007"):
        check_held(configure(tmp_path, ""), id_maps)


def test_the_highest_id_may_be_mapped(tmp_path: Path) -> None:
    conf = configure(tmp_path, maps("0:4294901759:65536", GOOD))
    id_maps = load_id_maps(conf)
    assert id_maps is not None
    assert id_maps.shift_uid(65535) == 2**32 - 2


def test_all_problems_of_the_maps_at_once(tmp_path: Path) -> None:
    conf = configure(tmp_path, maps("x,y", "0:5"))
    values = [
        (each.option, each.value)
        for each in Settings.from_conf(conf).find_problems()
    ]
    assert values == [(UID, "x"), (UID, "y"), (GID, "0:5")]
    with pytest.raises(ConfigError, match=f"{re.escape(GID)} = 0:5") as raised:
        load_id_maps(conf)
    assert str(raised.value).count(SYNTAX) == 3


@pytest.mark.parametrize(
    ("text", "option", "message"),
    [
        ("range_size = many", "range_size", "many"),
        ("range_size = 0", "range_size", "greater than or equal to 1"),
        ("rootfs_strategy = copy", "rootfs_strategy", "found 'copy'"),
        ("unmapped_ids = drop", "unmapped_ids", "found 'drop'"),
        ("userns_policy = off", "userns_policy", "found 'off'"),
        ("shift_workers = -1", "shift_workers", "greater than or equal to 0"),
        ("shift_workers = 300", "shift_workers", "less than or equal to 256"),
        ("unpack_max_bytes = 5 TB5", "unpack_max_bytes", "5 TB5: expected a"),
        ("unpack_max_bytes = 0", "unpack_max_bytes", "at least 1 bytes"),
        ("unpack_max_bytes =", "unpack_max_bytes", "expected a number of"),
        ("unpack_max_memory = 1M", "unpack_max_memory", "at least 64 MiB"),
        ("unpack_max_inodes = 0", "unpack_max_inodes", "or equal to 1"),
        ("state_path = var", "state_path", "an absolute path below /"),
        ("state_path = /", "state_path", "an absolute path below /"),
        ("state_path =", "state_path", "an absolute path below /"),
        ("run_path = /run/../etc", "run_path", "without '..'"),
        ("state_path = /a\0b", "state_path", "an absolute path below /"),
        ("state_path = $state_path", "state_path", "refers to itself"),
        *(
            (f"{name} =", name, "is empty; give a whole number")
            for name in (
                "range_size",
                "shift_workers",
                "max_processes",
                "hook_timeout",
                "hook_linger",
                "unpack_max_inodes",
            )
        ),
        *(
            (f"{state}\n{run}", "run_path", "neither may be in the other")
            for state, run in (
                ("state_path = /a/b", "run_path = /a/b"),
                ("state_path = /a/b/", "run_path = /a//b/c"),
                ("state_path = /a/./b/c", "run_path = /a/b"),
            )
        ),
    ],
)
def test_every_rule_of_the_other_options(
    tmp_path: Path, text: str, option: str, message: str
) -> None:
    conf = configure(tmp_path, f"[lxc_userns]\n{text}\n")
    (problem,) = Settings.from_conf(conf).find_problems()
    assert problem.option == f"[lxc_userns] {option}"
    assert message in problem.reason


def test_limits_of_unpacking(tmp_path: Path) -> None:
    found = Settings.from_conf(configure(tmp_path, "")).unpack_limits
    assert found == UnpackLimits()
    text = "unpack_max_bytes = 1.5G\nunpack_max_inodes = 7\n"
    conf = configure(tmp_path, f"[lxc_userns]\n{text}")
    found = Settings.from_conf(conf).unpack_limits
    assert (found.max_bytes, found.max_inodes) == (1_500_000_000, 7)
    conf = configure(tmp_path, "[lxc_userns]\nunpack_max_memory = x\n")
    with pytest.raises(ConfigError, match="unpack_max_memory: x: expected"):
        _ = Settings.from_conf(conf).unpack_limits


def test_maps_and_a_pool_exclude_each_other(tmp_path: Path) -> None:
    pool = "[lxc_userns]\nsubid_owner = lxc\n"
    conf = configure(tmp_path, maps(GOOD, GOOD, pool))
    (problem,) = Settings.from_conf(conf).find_problems()
    assert str(problem).startswith("[lxc_userns] subid_owner = lxc: is set")
    with pytest.raises(ConfigError, match="beside"):
        load_id_maps(conf)
    conf = configure(tmp_path, pool)
    assert Settings.from_conf(conf).find_problems() == []
    assert Settings.from_conf(conf).id_maps is None


def test_a_pool_is_not_the_same_as_nothing(tmp_path: Path) -> None:
    conf = configure(tmp_path, "[lxc_userns]\nsubid_owner = lxc\n")
    with pytest.raises(
        ConfigError,
        match=r"subid_owner = lxc: .* UserNamespaceManager.allocate or pre",
    ):
        load_id_maps(conf)
    assert load_id_maps(configure(tmp_path, "")) is None


def test_long_and_strange_values_are_shown_short(tmp_path: Path) -> None:
    digits = "9" * 5000
    text = maps(
        f"0:{digits}:1",
        "0:1:6",
        f"[lxc_userns]\nrange_size={digits}\nrun_path = 'run\t'\n",
    )
    said = [
        *map(
            str, Settings.from_conf(configure(tmp_path, text)).find_problems()
        )
    ]
    assert max(map(len, said)) < 400
    assert any("(5000 characters)" in each for each in said)
    assert any("(5004 characters)" in each for each in said)
    assert any(r"run_path = 'run\t':" in each for each in said)


def test_problems_of_all_options_at_once(tmp_path: Path) -> None:
    text = maps("x", "", "[lxc_userns]\nrange_size = 0\nrun_path = run\n")
    problems = Settings.from_conf(configure(tmp_path, text)).find_problems()
    assert [each.option for each in problems] == [
        "[lxc_userns] range_size",
        "[lxc_userns] run_path",
        UID,
        GID,
    ]
    # Nothing of how oslo.config prints where it found the value.
    assert str(problems[0]) == (
        "[lxc_userns] range_size: 0: Should be greater than or equal to 1"
    )


def test_a_reference_to_no_option_is_a_problem_of_its_option(
    tmp_path: Path,
) -> None:
    text = maps("$foo", "0:0:3", "[lxc_userns]\nstate_path = $HOME/x\n")
    conf = configure(tmp_path, text)
    assert [str(each) for each in Settings.from_conf(conf).find_problems()][
        :2
    ] == [
        "[lxc_userns] state_path: no such option HOME in group [DEFAULT]",
        "[libvirt] uid_maps: no such option foo in group [DEFAULT]",
    ]
    with pytest.raises(ConfigError, match=r"no such option foo.*0:0:3"):
        load_id_maps(conf)


def test_a_bad_entry_does_not_hide_what_is_wrong_with_others(
    tmp_path: Path,
) -> None:
    text = maps("x,1:5:10,9:50:5", "0:100000:5,5:200000:9,0:1", "")
    reasons = [
        (each.option, each.reason.partition(";")[0])
        for each in Settings.from_conf(
            configure(tmp_path, text)
        ).find_problems()
    ]
    syntax = (
        "expected guest:host:count, three decimal integers without sign, "
        "blanks or leading zeros"
    )
    assert reasons == [
        (UID, syntax),
        (UID, "guest IDs of 1:5:10 and 9:50:5 overlap"),
        (GID, syntax),
        (
            GID,
            "5:200000:9 starts at guest group 5 (tty), which libvirt misreads",
        ),
    ]


def test_options_are_copied_for_the_generator() -> None:
    listed = dict(options.list_opts())
    assert set(listed) == {"libvirt", "lxc_userns", "lxc_userns_privileged"}
    for mine in (*options.LIBVIRT_OPTS, *options.OPTS, *allowed_paths.OPTS):
        (copy,) = [
            each
            for group in listed.values()
            for each in group
            if each.name == mine.name
        ]
        assert copy is not mine


def test_help_gives_an_example_of_every_option() -> None:
    for option in (*options.LIBVIRT_OPTS, *options.OPTS, *allowed_paths.OPTS):
        assert "example" in str(option.help), option.name


def test_the_sample_is_current() -> None:
    file = GENERATOR / "config-generator.conf"
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(["--config-file", str(file)], default_config_dirs=[])
    sample = io.StringIO()
    generator.generate(conf, output_file=sample)
    current = (GENERATOR / "lxc-userns.conf.sample").read_text()
    assert current == sample.getvalue(), (
        f"run: oslo-config-generator --config-file {file}"
    )
