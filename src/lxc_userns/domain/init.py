# SPDX-License-Identifier: Apache-2.0
"""The first process of a container: ``<os>``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from lxml import etree

from lxc_userns.domain.checks import (
    check_match,
    check_path,
    check_text,
    refuse,
)
from lxc_userns.domain.document import attribute
from lxc_userns.exceptions import DomainXmlError


def check_variable(name: str, value: str) -> None:
    """Refuse an environment variable that would break out of ``<initenv>``.

    virDomainDefFormat() writes the value without escaping it (libvirt
    9.0.0), so that markup in it becomes part of the XML that is stored and
    that starts the container: ``&`` makes that unreadable, and ``<`` can
    add elements to it, an ID map entry for instance.

    :raises DomainXmlError: if the value has such a character, or the name is
        none.
    """
    check_match(
        "environment variable",
        name,
        "[a-zA-Z_][a-zA-Z0-9_]*",
        "letters, digits and '_'",
    )
    what = f"environment variable {name}"
    check_text(what, value)
    if not value:
        refuse(what, value, "libvirt takes no empty value; leave it out")
    if "<" in value or "&" in value or "]]>" in value:
        refuse(
            what,
            value,
            "has '<', '&' or ']]>', which libvirt writes into its XML "
            "unescaped; set it in the container instead",
        )


def environment_problems(domain: etree._Element) -> Iterator[str]:
    """Yield what is wrong with the environment variables of a ``<domain>``."""
    for variable in domain.iterfind("os/initenv"):
        try:
            check_variable(attribute(variable, "name"), variable.text or "")
        except DomainXmlError as err:
            yield str(err)


@dataclass(frozen=True, slots=True)
class Init:
    """The program that is process 1 of the container.

    :param path: absolute path in the container.
    :param args: its arguments, without the program's own name; libvirt
        takes no empty ones.
    :param env: variables beside, or instead of, those that libvirt sets
        (``PATH=/bin:/sbin``, ``HOME=/``, ``TERM=linux``, ``container``,
        ``container_uuid``, ``LIBVIRT_LXC_*``).
    :raises DomainXmlError: for a value that libvirt or XML cannot carry.
    """

    path: str
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", _arguments(self.args))
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))
        check_path("init", self.path)
        if self.path == "/":
            refuse("init", self.path, "is a directory")
        for name, value in self.env.items():
            check_variable(name, value)

    def to_element(self) -> etree._Element:
        """Return ``<os>`` of type ``exe``."""
        element = etree.Element("os")
        etree.SubElement(element, "type").text = "exe"
        etree.SubElement(element, "init").text = self.path
        for arg in self.args:
            etree.SubElement(element, "initarg").text = arg
        for name, value in self.env.items():
            etree.SubElement(element, "initenv", name=name).text = value
        return element


def _arguments(args: Sequence[str]) -> tuple[str, ...]:
    if isinstance(args, str):
        refuse("arguments of init", args, "a sequence of texts is expected")
    for arg in args:
        check_text("argument of init", arg)
        if not arg:
            refuse("argument of init", arg, "libvirt takes no empty one")
    return tuple(args)
