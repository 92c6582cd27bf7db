# SPDX-License-Identifier: Apache-2.0
"""Names that oslo.config would pass over, and isolation with them."""

from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_privsep import priv_context

from lxc_userns.config.check import check_config
from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings, load_id_maps
from lxc_userns.exceptions import ConfigError
from lxc_userns.findings import Severity

GOOD = "0:100000:65536"
POOL = "[lxc_userns]\nsubid_owner = lxc\n"


def configure(tmp_path: Path, *texts: str) -> cfg.ConfigOpts:
    """Read each text as a file of its own."""
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.conf")
        files[-1].write_text(text)
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([f"--config-file={file}" for file in files], default_config_dirs=[])
    return conf


def problems(conf: cfg.ConfigOpts) -> list[str]:
    return [str(each) for each in Settings.from_conf(conf).find_problems()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"[libvirt]\nuid_map = {GOOD}\n",
            "[libvirt] uid_map: unknown option; write [libvirt] uid_maps",
        ),
        (
            f"[libvirt]\ngid-maps = {GOOD}\n",
            "[libvirt] gid-maps: unknown option; write [libvirt] gid_maps",
        ),
        (
            f"[libvirt]\nUID_MAPS = {GOOD}\n",
            "[libvirt] UID_MAPS: unknown option; write [libvirt] uid_maps",
        ),
        (
            f"[libvirt]\nuid_mapping = {GOOD}\n",
            "[libvirt] uid_mapping: unknown option; write [libvirt] uid_maps",
        ),
        (
            f"[libvrit]\nuid_maps = {GOOD}\n",
            "[libvrit] uid_maps: unknown option; write [libvirt] uid_maps",
        ),
        (
            f"[DEFAULT]\nuid_maps = {GOOD}\n",
            "[DEFAULT] uid_maps: unknown option; write [libvirt] uid_maps",
        ),
        (
            "[libvirt]\nsubid_owner = lxc\n",
            "[libvirt] subid_owner: unknown option; write [lxc_userns] "
            "subid_owner",
        ),
        (
            f"[lxc_userns]\nuid_maps = {GOOD}\n",
            "[lxc_userns] uid_maps: unknown option; write [libvirt] uid_maps",
        ),
        (
            "[lxc_userns]\nsubid_ower = lxc\n",
            "[lxc_userns] subid_ower: unknown option; write [lxc_userns] "
            "subid_owner",
        ),
        (
            "[lxc_userns]\nnothing_like_it = 1\n",
            "[lxc_userns] nothing_like_it: unknown option; remove it",
        ),
        (
            "[lxc_userns_privileged]\nroot = /srv\n",
            "[lxc_userns_privileged] root: unknown option; write "
            "[lxc_userns_privileged] roots",
        ),
        *(
            (
                f"[{section}]\nsubid_owner = lxc\n",
                f"[{section}]: unknown section; write [lxc_userns]",
            )
            for section in (
                "lxc-userns", "lxcuserns", "lxc_usern", "lxc_users",
                "lxc_user_ns", "userns", " lxc_userns",
            )
        ),
        (
            "[lxc_userns_priviledged]\nroots = /srv\n",
            "[lxc_userns_priviledged]: unknown section; write "
            "[lxc_userns_privileged]",
        ),
        ("[lxc-usern]\n", "[lxc-usern]: unknown section; write [lxc_userns]"),
    ],
)  # fmt: skip
def test_one_misspelt_letter(tmp_path: Path, text: str, said: str) -> None:
    conf = configure(tmp_path, text)
    (problem,) = problems(conf)
    assert problem == said
    # No way to ID maps passes it over.
    with pytest.raises(ConfigError, match="unknown"):
        load_id_maps(conf)
    assert [
        each.severity
        for each in check_config(conf)
        if "unknown" in each.message
    ] == [Severity.ERROR]


def test_beside_what_is_right(tmp_path: Path) -> None:
    """Of several files, each counts."""
    first = f"[libvirt]\nuid_maps = {GOOD}\ngid_maps = {GOOD}\n"
    conf = configure(tmp_path, first, "[lxc_userns]\nunmaped_ids = error\n")
    (problem,) = problems(conf)
    assert "write [lxc_userns] unmapped_ids" in problem
    # Options that can be read are read.
    assert Settings.from_conf(conf).unmapped_ids == "keep"


@pytest.mark.parametrize(
    "name",
    [
        "OS_LXC_USERNS__SUBID_OWER",
        "OS_LXC_USERN__SUBID_OWNER",
        "OS_lxc_userns__SUBID_OWNER",
        "OS_LXC_USERNS__subid_owner",
        "OS_LIBVIRT__UID_MAP",
    ],
)
def test_variables_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "lxc")
    monkeypatch.setenv("OS_AUTH_URL", "http://example.org")
    (problem,) = problems(configure(tmp_path, ""))
    assert problem.startswith(f"{name}: unknown")
    assert "; write OS_L" in problem


def test_variables_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_LXC_USERNS__SUBID_OWNER", "lxc")
    conf = configure(tmp_path, "")
    assert problems(conf) == []
    assert Settings.from_conf(conf).has_pool


def test_a_configuration_that_reads_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OS_LXC_USERNS__SUBID_OWER", "lxc")
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[], use_env=False)
    assert problems(conf) == []


@pytest.mark.parametrize(
    "text",
    [
        "[LXC_USERNS]\nsubid_owner = lxc\n",
        "[libvirt]\nvirt_type = lxc\nimages_type = raw\n[service_user]\n",
        "[DEFAULT]\nstate_path = /var/lib/nova\n[oslo_limit]\n[lxd]\nx = 1\n",
        *(
            f"[lxc_userns_privileged]\n{each.name} = 1\n"
            for each in priv_context.OPTS
            if each.name != "capabilities"
        ),
    ],
)
def test_names_that_are_right_or_of_others(tmp_path: Path, text: str) -> None:
    assert problems(configure(tmp_path, text)) == []


def test_before_anything_is_read() -> None:
    conf = cfg.ConfigOpts()
    register_opts(conf)
    assert problems(conf) == []


REQUIRED = "[lxc_userns]\nuserns_policy = required\n"
NOTHING = (
    "[lxc_userns] userns_policy = required: neither [libvirt] uid_maps and "
    "gid_maps nor [lxc_userns] subid_owner is set; set either"
)


def test_required_with_nothing_to_make_namespaces_of(tmp_path: Path) -> None:
    conf = configure(tmp_path, REQUIRED)
    assert problems(conf) == [NOTHING]
    with pytest.raises(ConfigError, match="neither"):
        load_id_maps(conf)
    found = [each for each in check_config(conf) if "neither" in each.message]
    assert [each.severity for each in found] == [Severity.ERROR]
    # The policy itself can be read, and a request may bring maps.
    assert Settings.from_conf(conf).userns_policy == "required"
    assert Settings.from_conf(conf).find_problems(maps_given=True) == []


def test_required_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = configure(tmp_path, "")
    assert problems(conf) == []
    conf.set_override("userns_policy", "required", "lxc_userns")
    assert problems(conf) == [NOTHING]
    monkeypatch.setenv("OS_LXC_USERNS__USERNS_POLICY", "required")
    assert problems(configure(tmp_path, "")) == [NOTHING]


@pytest.mark.parametrize(
    "text",
    [
        "[lxc_userns]\nuserns_policy = preferred\n",
        f"{REQUIRED}[libvirt]\nuid_maps = {GOOD}\ngid_maps = {GOOD}\n",
        f"{REQUIRED}subid_owner = lxc\n",
    ],
)
def test_policies_that_can_be_kept(tmp_path: Path, text: str) -> None:
    assert problems(configure(tmp_path, text)) == []


def test_required_with_maps_that_are_wrong(tmp_path: Path) -> None:
    """One problem is told once."""
    conf = configure(tmp_path, f"{REQUIRED}[libvirt]\nuid_maps = x\n")
    assert not any("nor [lxc_userns]" in each for each in problems(conf))
