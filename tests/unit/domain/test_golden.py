# SPDX-License-Identifier: Apache-2.0
"""Domain XML of the usual containers, and of any other."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from lxml import etree

from lxc_userns import domain
from lxc_userns.idmap import IdMap, IdMaps
from tests.unit.domain import strategies
from tests.unit.domain.samples import SAMPLES

GOLDEN = Path(__file__).with_name("golden")
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")

needs_schema = pytest.mark.skipif(
    not SCHEMA.exists(), reason="libvirt's RELAX NG schema is not installed"
)


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(file=str(SCHEMA))


def as_read(ours: domain.Domain) -> domain.Domain:
    """The entries of ID maps are written in the order of guest IDs."""
    if ours.id_maps is None:
        return ours
    maps = (
        IdMap(tuple(sorted(ours.id_maps.uid))),
        IdMap(tuple(sorted(ours.id_maps.gid))),
    )
    return replace(ours, id_maps=IdMaps(*maps))


def test_each_sample_has_its_file() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_golden(name: str) -> None:
    golden = (GOLDEN / f"{name}.xml").read_text()
    assert SAMPLES[name].to_xml() == golden
    assert domain.Domain.from_xml(golden) == as_read(SAMPLES[name])


@needs_schema
@pytest.mark.parametrize("name", SAMPLES)
def test_sample_is_valid(schema: etree.RelaxNG, name: str) -> None:
    schema.assertValid(etree.fromstring(SAMPLES[name].to_xml()))


@needs_schema
@given(ours=strategies.domains)
def test_every_form_is_valid(
    schema: etree.RelaxNG, ours: domain.Domain
) -> None:
    schema.assertValid(etree.fromstring(ours.to_xml()))


@given(ours=strategies.domains)
def test_every_form_reads_back(ours: domain.Domain) -> None:
    assert domain.Domain.from_xml(ours.to_xml()) == as_read(ours)


def test_domains_are_values() -> None:
    one, other = SAMPLES["tuned"], replace(SAMPLES["tuned"])
    assert len({one, other}) == 1
    with pytest.raises(AttributeError):
        one.name = "two"  # type: ignore[misc]
    with pytest.raises(TypeError):
        one.metadata["key"] = "value"  # type: ignore[index]
