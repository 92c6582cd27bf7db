# SPDX-License-Identifier: Apache-2.0
"""The parts of SARIF 2.1.0 that a CI service reads."""

import dataclasses
import json
import re

import pytest

from lxc_userns.audit import RULES, audit_domain
from lxc_userns.audit.sarif import to_sarif
from tests.unit.audit.documents import domain, filesystem, id_map

XML = domain(
    idmap=id_map("0:1000:5,6:0:70000", "0:600000:65536"),
    devices=filesystem("/srv/x"),
)
LEVELS = {
    "INFO": ("note", 0.1, 3.9),
    "WARN": ("warning", 4.0, 6.9),
    "HIGH": ("error", 7.0, 8.9),
    "ERROR": ("error", 7.0, 8.9),
    "CRITICAL": ("error", 9.0, 10.0),
}


def test_log() -> None:
    log = to_sarif(audit_domain(XML), version="1.2.3", file="a b/domain.xml")
    assert json.loads(json.dumps(log)) == log
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    assert set(run) == {"tool", "results"}
    driver = run["tool"]["driver"]
    assert driver["name"] == "lxc-userns"
    assert driver["version"] == "1.2.3"


def test_all_rules_are_in_it() -> None:
    (run,) = to_sarif([], version="1", file=None)["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [each["id"] for each in rules] == [rule.code for rule in RULES]
    for each, rule in zip(rules, RULES, strict=True):
        level, lowest, highest = LEVELS[str(rule.severity)]
        assert re.fullmatch("([A-Z][a-z0-9]*)+", each["name"])
        for key in ("shortDescription", "fullDescription", "help"):
            assert each[key]["text"].endswith(".")
        assert rule.remedy in each["help"]["text"]
        assert each["defaultConfiguration"] == {"level": level}
        score = each["properties"]["security-severity"]
        assert isinstance(score, str)
        assert lowest <= float(score) <= highest
        assert each["properties"]["tags"] == ["security"]
    assert run["results"] == []


def test_results() -> None:
    findings = audit_domain(XML)
    log = to_sarif(findings, version="1", file="a b/domain.xml")
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == len(findings) > 4
    levels = set()
    for result, finding in zip(run["results"], findings, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["ruleId"] == finding.code
        assert finding.message in result["message"]["text"]
        assert result["level"] == LEVELS[str(finding.severity)][0]
        levels.add(result["level"])
        (location,) = result["locations"]
        assert location["physicalLocation"] == {
            "artifactLocation": {"uri": "a%20b/domain.xml"},
            "region": {"startLine": finding.line},
        }
        assert location["logicalLocations"] == [
            {"fullyQualifiedName": finding.xpath, "kind": "element"}
        ]
    assert levels == {"error", "warning", "note"}


def test_without_a_file() -> None:
    (run,) = to_sarif(audit_domain(XML), version="1", file=None)["runs"]
    for result in run["results"]:
        assert set(result["locations"][0]) == {"logicalLocations"}


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("web.xml", "web.xml"),
        ("./web.xml", "./web.xml"),
        ("/etc/libvirt/lxc/web.xml", "/etc/libvirt/lxc/web.xml"),
        ("//etc/web.xml", "/etc/web.xml"),
        ("a:b#c?.xml", "a%3Ab%23c%3F.xml"),
        ("ü\udcff.xml", "%C3%BC%FF.xml"),
    ],
)
def test_names_of_files(file: str, uri: str) -> None:
    (run,) = to_sarif(audit_domain(XML), version="1", file=file)["runs"]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": uri}


def test_result_of_a_file_without_a_line_has_no_region() -> None:
    finding, *_ = audit_domain(XML)
    found = dataclasses.replace(finding, line=None)
    (run,) = to_sarif([found], version="1", file="x.xml")["runs"]
    (place,) = run["results"][0]["locations"]
    assert place["physicalLocation"] == {"artifactLocation": {"uri": "x.xml"}}
