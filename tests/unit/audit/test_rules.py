# SPDX-License-Identifier: Apache-2.0
"""Each rule: what breaks it, exactly where, and what does not."""

import pytest

from lxc_userns.audit import RULES, Severity, audit_domain
from tests.unit.audit.broken import (
    BROKEN,
    GOOD,
    NETNS,
)
from tests.unit.audit.documents import (
    PRIVNET,
    SECLABEL,
    domain,
    filesystem,
    id_map,
)


def codes(xml: str) -> set[str]:
    return {finding.code for finding in audit_domain(xml)}


@pytest.mark.parametrize(
    ("expected", "xml"),
    BROKEN,
    ids=[f"{expected[0]}-{n}" for n, (expected, _) in enumerate(BROKEN)],
)
def test_broken(expected: tuple[str, str, str, int, str], xml: str) -> None:
    code, severity, xpath, line, message = expected
    found = [
        finding
        for finding in audit_domain(xml)
        if finding.code == code and finding.xpath == xpath
    ]
    assert found, audit_domain(xml)
    assert {str(each.severity) for each in found} == {severity}
    assert {each.line for each in found} == {line}
    assert any(message in each.message for each in found), found
    rules = {rule.code: rule for rule in RULES}
    assert {each.remedy for each in found} == {rules[code].remedy}


def test_every_static_rule_is_tried() -> None:
    static = {rule.code for rule in RULES if not rule.is_live}
    assert {expected[0] for expected, _ in BROKEN} == static


def test_nothing_to_say() -> None:
    assert audit_domain(domain()) == []


#: What is near to breaking a rule, and does not.
KEPT = [
    domain(idmap=id_map("0:1879048192:65536")),
    domain(idmap=id_map("0:65536:65536")),
    domain(idmap=id_map(f"{GOOD},4294967294:1900000000:1")),
    domain(idmap=id_map("0:2147418112:65536")),
    domain(idmap=id_map(f"65536:2013331456:9,{GOOD}")),
    domain(idmap=id_map("0: +02013265920:65536")),
    domain(
        idmap=id_map(
            ",".join(f"{n}:{n + 2013265920}:1" for n in range(200)), GOOD
        )
    ),
    domain(init="<inituser>65535</inituser><initgroup>+0</initgroup>"),
    domain(init="<inituser>alice</inituser>"),
    domain(features="", devices="<interface type='bridge'/>"),
    domain(features="<x:privnet xmlns:x='urn:x'/>"),
    domain(root=filesystem("/run/lxc-userns/web/root", "/")),
    domain(root=filesystem("/var/run/lxc-userns/web/root", "/")),
    domain(root=filesystem("/var/lib/libvirt/filesystems/web", "/")),
    domain(root=filesystem("/var/lib/nova/instances/1/rootfs", "/")),
    domain(root=filesystem("/runner/web", "/")),
    domain(root=filesystem("/srv/web", "/", readonly=True)),
    domain(devices=filesystem("/run/lxc-userns/web/volume0")),
    domain(devices=filesystem("/etc", kind="bind")),
    domain(devices=filesystem("/.oldroots", kind="bind")),
    domain(devices=filesystem("64", kind="ram", readonly=True)),
    domain(devices=filesystem("64", "/dev/shm", "ram")),
    domain(devices=filesystem("64", "/process", "ram")),
    domain(
        features=f"{PRIVNET}<capabilities policy='deny'>"
        "<chown state='on'/><mknod state='off'/></capabilities>"
    ),
    domain(init="<initenv name='A'>a > b, \"c\" and 'd'</initenv>"),
    domain(devices="<emulator>/usr/lib64/libvirt/libvirt_lxc</emulator>"),
    domain(
        end="<seclabel type='static' model='selinux'>"
        "<label>system_u:system_r:svirt_lxc_net_t:s0</label></seclabel>"
        "<seclabel type='none' model='dac'/>"
    ),
    # What is no part of the domain, whatever it is called.
    domain(
        end=f"{SECLABEL}<metadata><x:idmap xmlns:x='urn:x'>"
        "<uid start='0' target='0' count='1'/></x:idmap></metadata>"
    ),
]
ADVISORIES = {"idmap-systemd-range", "idmap-few-ids"}


@pytest.mark.parametrize("xml", KEPT)
def test_kept(xml: str) -> None:
    assert codes(xml) <= ADVISORIES


@pytest.mark.parametrize(
    ("code", "xml"),
    [
        ("readonly-not-enforced", filesystem("/srv/x", readonly=True)),
        ("writable-host-path", filesystem("/srv/x", readonly=True)),
        ("filesystem-refused", filesystem("/srv/d", kind="file")),
        ("filesystem-refused", filesystem("/dev/vdb", kind="block")),
        ("host-path", filesystem("/dev/vdb", kind="block")),
    ],
)
def test_without_id_maps(code: str, xml: str) -> None:
    """Only ID maps make it wrong, or it has nothing to do with them."""
    assert code not in codes(domain(idmap="", devices=xml))


def test_another_network_is_not_the_hosts() -> None:
    shared = domain(features="", end=NETNS.format("sharenet", "pid", 1))
    assert "host-network" not in codes(shared)
    # A shared network makes none of its own, whatever else is shared.
    other = domain(features="", end=NETNS.format("shareuts", "pid", 1))
    assert "host-network" in codes(other)
    device = "<hostdev mode='{}' type='{}'/>"
    assert "host-network" not in codes(
        domain(features="", devices=device.format("capabilities", "net"))
    )
    for mode, kind in (("capabilities", "misc"), ("subsystem", "net")):
        xml = domain(features="", devices=device.format(mode, kind))
        assert "host-network" in codes(xml)


def test_what_goes_with_a_network_of_its_own() -> None:
    for name in ("shareipc", "shareuts"):
        xml = domain(idmap="", end=NETNS.format(name, "name", "db"))
        assert "sharing-refused" not in codes(xml)
    xml = domain(idmap="", features="", end=NETNS.format("sharenet", "pid", 1))
    assert "sharing-refused" not in codes(xml)


@pytest.mark.parametrize(
    ("number", "first", "last", "refused"),
    [
        (340, 65536, 1, False),
        (247, 10**9, 10**6, False),  # 4095 bytes.
        (247, 10**9, 10**7, True),
    ],
)
def test_most_entries(
    number: int, first: int, last: int, refused: bool
) -> None:
    entries = ",".join(f"{n}:{first + n}:1" for n in range(number))
    xml = domain(idmap=id_map(f"{entries.removesuffix('1')}{last}", GOOD))
    assert ("idmap-refused" in codes(xml)) == refused


def test_a_view_is_below_the_run_path() -> None:
    xml = domain(root=filesystem("/run/views/web/root", "/"))
    assert codes(xml) == {"host-path"}
    assert audit_domain(xml, run_path="/run/views/") == []
    assert audit_domain(xml, run_path="/var/run/views") == []
    assert [
        each.message for each in audit_domain(xml, run_path="/run/views/web/")
    ] == []
    whole = domain(root=filesystem("/srv/v", "/"))
    (finding,) = audit_domain(whole, run_path="/srv/v/views")
    assert "with views of other containers" in finding.message


def test_most_severe_first_then_as_in_the_document() -> None:
    xml = domain(
        idmap=id_map("0:1000:65536", "0:1000:5,5:1006:9"),
        devices=filesystem("/etc") + filesystem("/"),
        features="",
        end="",
    )
    found = audit_domain(xml)
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities, reverse=True)
    assert [(each.code, each.line) for each in found] == [
        ("host-network", 1),
        ("host-root-filesystem", 16),
        ("idmap-low-host-ids", 6),
        ("idmap-low-host-ids", 7),
        ("idmap-low-host-ids", 7),
        ("host-path", 15),
        ("no-seclabel", 1),
        ("idmap-few-ids", 5),
        ("idmap-tty", 7),
        ("writable-host-path", 15),
        ("writable-host-path", 16),
    ]


def test_severities() -> None:
    names = ["INFO", "WARN", "HIGH", "ERROR", "CRITICAL"]
    assert [str(each) for each in sorted(Severity)] == names


def test_rules_are_complete() -> None:
    assert len({rule.code for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.code == rule.code.lower()
        assert rule.rationale.endswith((".", ")."))
        assert not rule.remedy.endswith(".")
