# SPDX-License-Identifier: Apache-2.0
"""The first process of a container: ``<os>``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from lxml import etree

from lxc_userns.domain.checks import (
    check_match,
    check_number,
    check_path,
    check_text,
    refuse,
)
from lxc_userns.domain.document import attribute, number_of, text_at, text_of
from lxc_userns.exceptions import DomainXmlError
from lxc_userns.idmap import ID_LIMIT


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
    :param cwd: working directory in the container, default ``/``.
    :param user: name in the container or guest ID to run as, default root.
    :param group: the same for the group. Both or neither: libvirt would
        leave a user's process in group 0.
    :raises DomainXmlError: for a value that libvirt or XML cannot carry.
    """

    path: str
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    cwd: str | None = None
    user: str | int | None = None
    group: str | int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", _arguments(self.args))
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))
        if self.cwd == "/":
            # libvirt starts there, and its schema does not know "/".
            object.__setattr__(self, "cwd", None)
        check_path("init", self.path)
        if self.path == "/":
            refuse("init", self.path, "is a directory")
        for name, value in self.env.items():
            check_variable(name, value)
        if self.cwd is not None:
            check_path("working directory of init", self.cwd)
        self._check_owner()

    def _check_owner(self) -> None:
        if (self.user is None) != (self.group is None):
            raise DomainXmlError(
                "init: user and group are given both or neither; libvirt "
                "would run a user's init in group 0"
            )
        for what, owner in (("user", self.user), ("group", self.group)):
            if isinstance(owner, str):
                check_match(
                    f"{what} of init",
                    owner,
                    "[A-Za-z_][A-Za-z0-9_-]*",
                    "a name of letters, digits, '_' and '-', or a number",
                )
            elif owner is not None:
                check_number(f"{what} of init", owner, 0, ID_LIMIT - 1)

    def to_element(self) -> etree._Element:
        """``<os>`` of type ``exe``."""
        element = etree.Element("os")
        etree.SubElement(element, "type").text = "exe"
        etree.SubElement(element, "init").text = self.path
        for arg in self.args:
            etree.SubElement(element, "initarg").text = arg
        for name, value in self.env.items():
            etree.SubElement(element, "initenv", name=name).text = value
        for tag, text in (
            ("initdir", self.cwd),
            ("inituser", _owner_text(self.user)),
            ("initgroup", _owner_text(self.group)),
        ):
            if text is not None:
                etree.SubElement(element, tag).text = text
        return element

    @classmethod
    def from_element(cls, element: etree._Element) -> Init:
        """Read ``<os>``.

        :raises DomainXmlError: if it is not an init we could have written.
        """
        path = element.find("init")
        if path is None:
            raise DomainXmlError("<os> has no <init>")
        return cls(
            path=text_of(path),
            args=tuple(text_of(arg) for arg in element.findall("initarg")),
            env={
                attribute(variable, "name"): text_of(variable)
                for variable in element.findall("initenv")
            },
            cwd=text_at(element, "initdir"),
            user=_owner(text_at(element, "inituser")),
            group=_owner(text_at(element, "initgroup")),
        )


def _arguments(args: Sequence[str]) -> tuple[str, ...]:
    if isinstance(args, str):
        refuse("arguments of init", args, "a sequence of texts is expected")
    for arg in args:
        check_text("argument of init", arg)
        if not arg:
            refuse("argument of init", arg, "libvirt takes no empty one")
    return tuple(args)


def _owner_text(owner: str | int | None) -> str | None:
    # The sign keeps libvirt from looking for a user of that name first.
    return f"+{owner}" if isinstance(owner, int) else owner


def _owner(text: str | None) -> str | int | None:
    if text is None or not text.lstrip("+").isdigit():
        return text
    return number_of("owner of init", text.removeprefix("+"))
