# SPDX-License-Identifier: Apache-2.0
"""Settings: read once, and each option's problem told to its reader alone."""

from pathlib import Path

import pytest
from oslo_config import cfg

from lxc_userns.config import options
from lxc_userns.config.settings import Settings, check_held, load_id_maps
from lxc_userns.exceptions import ConfigError
from lxc_userns.idmap import IdMap, IdMaps


def read(path: Path, text: str = "") -> tuple[cfg.ConfigOpts, Settings]:
    file = path / "x.conf"
    file.write_text(text)
    conf = cfg.ConfigOpts()
    options.register_opts(conf)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return conf, Settings.from_conf(conf)


def test_every_option_of_ours_is_an_attribute_or_has_one(
    tmp_path: Path,
) -> None:
    _, settings = read(tmp_path)
    others = {"held_ids", "uid_maps", "gid_maps"}
    for _, opts in options.list_opts():
        for each in opts:
            if each.name not in others:
                name = options.option_name(
                    "lxc_userns_privileged"
                    if each.name == "roots"
                    else "lxc_userns",
                    each.name,
                )
                assert getattr(settings, each.name) == settings.values[name]
    assert (settings.refuses_held, settings.id_maps) == (True, None)


def test_a_later_change_of_the_configuration_is_not_seen(
    tmp_path: Path,
) -> None:
    conf, settings = read(tmp_path)
    conf.set_override("max_processes", 7, "lxc_userns")
    assert settings.max_processes == 4096
    assert Settings.from_conf(conf).max_processes == 7
    with pytest.raises(AttributeError):
        settings.values = {}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("subid_owner", "a b"),
        ("state_path", "x"),
        ("run_path", "/"),
        ("shift_workers", "-1"),
        ("unpack_max_bytes", "x"),
        ("seclabel", "x"),
        ("userns_policy", "$nosuch"),
        ("roots", "x"),
    ],
)
def test_a_problem_is_told_to_who_reads_its_option(
    tmp_path: Path, name: str, text: str
) -> None:
    group = "lxc_userns_privileged" if name == "roots" else "lxc_userns"
    bad = f"[{group}]\n{name} = {text}\n[libvirt]\nuid_maps = 0:0:1\n"
    _, settings = read(tmp_path, bad)
    for each in ("state_path", "run_path", "range_size", "roots", name):
        if each != name:
            getattr(settings, each)
    with pytest.raises(ConfigError) as caught:
        getattr(settings, name)
    assert caught.value.option == f"[{group}] {name}"
    with pytest.raises(ConfigError, match="uid_maps = 0:0:1"):
        _ = settings.id_maps


@pytest.mark.parametrize(
    "text", ["/a/b/", "/a//b", "//a/b", "/a/./b/.", "/a/b"]
)
def test_paths_have_no_needless_slashes(tmp_path: Path, text: str) -> None:
    """One at the end would name nothing in the directory that was meant."""
    _, settings = read(tmp_path, f"[lxc_userns]\nstate_path = {text}\n")
    assert settings.state_path == "/a/b"


def test_paths_with_a_common_beginning_are_not_in_each_other(
    tmp_path: Path,
) -> None:
    text = "[lxc_userns]\nstate_path = /a/b\nrun_path = /a/bc\n"
    _, settings = read(tmp_path, text)
    assert settings.find_problems() == []


def test_a_pool_that_cannot_be_read_is_no_missing_pool(
    tmp_path: Path,
) -> None:
    _, settings = read(tmp_path, "[lxc_userns]\nsubid_owner = $nosuch\n")
    assert settings.missing is None
    with pytest.raises(ConfigError, match="subid_owner"):
        _ = settings.has_pool


def test_old_names_warn(tmp_path: Path) -> None:
    conf, _ = read(tmp_path)
    with pytest.warns(DeprecationWarning, match="config.settings"):
        assert options.load_id_maps is load_id_maps
    with pytest.warns(DeprecationWarning, match="config.settings"):
        assert options.check_held is check_held
    with pytest.raises(AttributeError):
        _ = options.nothing
    id_map = IdMap.parse("0:100000:65536")
    conf.set_override("held_ids", "allow", "lxc_userns")
    check_held(conf, IdMaps(id_map, id_map))
