# SPDX-License-Identifier: Apache-2.0
"""The documentation, compared with the tests and the policy."""

import ast
import importlib.util
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from lxc_userns.spec.policy import HOST_CAPABILITIES
from lxc_userns.subid.unlisted import DIRECTORY_IDS

TOP = Path(__file__).parents[2]
DOC = TOP / "doc/source"
_CITED = re.compile(r"``([a-z_/]+\.py)``:\s+((?:``test_\w+``,?\s*)+)")


@pytest.mark.parametrize(
    ("page", "base", "tables"),
    [
        ("isolation/index.rst", "tests/functional", 1),
        # Its first table says who is trusted with what.
        ("security/attacks.rst", "tests", 7),
        ("nova/index.rst", "tests/nova", 1),
    ],
)
def test_each_row_has_a_test_that_is_there(
    page: str, base: str, tables: int
) -> None:
    text = (DOC / page).read_text("utf-8")
    if page == "security/attacks.rst":
        text = text[text.index("The tables name the test") :]
    headers = text.count("list-table")
    rows = text.count("   * - ") - headers
    cited = _CITED.findall(text)
    named = set(re.findall(r"test_\w+(?!\w*\.py)", text))
    for module, names in cited:
        tree = ast.parse((TOP / base / module).read_text("utf-8"))
        there = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
        }
        for name in re.findall(r"test_\w+", names):
            assert name in there, (module, name)
            named.discard(name)
    assert len(cited) >= rows
    assert {name for name in named if f"{name}.py" not in text} == set()
    assert headers >= tables - 1


def read_arguments(path: Path) -> dict[str, list[str]]:
    """Read which fixtures each function of a module takes, by its name."""
    return {
        node.name: [each.arg for each in node.args.args]
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def find_fixtures(name: str, functions: Mapping[str, list[str]]) -> set[str]:
    """Find all fixtures of a test, those of its fixtures among them."""
    found: set[str] = set()
    pending = [name]
    while pending:
        new = set(functions.get(pending.pop(), ())) - found
        found |= new
        pending += new
    return found


def test_each_operation_of_nova_has_a_test_in_each_strategy() -> None:
    """The page says so above the table."""
    base = TOP / "tests/nova"
    shared = read_arguments(base / "conftest.py")
    text = (DOC / "nova/index.rst").read_text("utf-8")
    without = {
        name
        for module, names in _CITED.findall(text)
        for name in re.findall(r"test_\w+", names)
        if "strategy"
        not in find_fixtures(name, shared | read_arguments(base / module))
    }
    assert without == set()


def test_capabilities_that_count_on_the_host_only() -> None:
    text = (DOC / "policy/index.rst").read_text("utf-8")
    listed = text.split("user_namespaces(7)`):")[1].split("A container that")[
        0
    ]
    assert set(re.findall(r"``(\w+)``", listed)) == HOST_CAPABILITIES


#: What no line of ours may have somebody do as root, and why.
UNSAFE = {
    r"\bnsenter\s+-": "hands root's terminal to the container (TIOCSTI)",
    r"\blxc-enter-namespace\b": "the same, by libvirt",
    r"\bvirsh\b.*\bconsole\b": "what it shows is the container's to choose",
    r"\bchroot\s+[-/]": "runs programs of the container as the host's root",
    r"\b(curl|wget)\b.*\|": "executes what somebody sends",
    r"\b(ba)?sh -c\b": "text of others can become a command",
    r"\bchmod\s+(-\w+\s+)*(0?777|[ao]*\+w)": "opens it to everybody",
    r"(>|--output|-o)\s*/tmp/": "follows the link of somebody else",
    r"\bqemu-img convert\b(?!.* -f )": "lets the image say what it is",
    r"\bdebootstrap\s+[-\w](?!.*force-check-gpg)": "takes what no one signed",
    r"\b(cat|cp|install|tee|vi|nano|tar)\b.*\s/run/lxc-userns/[\w-]+/root/":
        "follows links that a container has made",
}  # fmt: skip


def read_documents() -> Iterator[tuple[Path, str]]:
    """The documentation and what is shipped to be copied, with long lines."""
    for path in (
        *DOC.rglob("*.rst"),
        *TOP.glob("*.rst"),
        *(each for each in (TOP / "etc").rglob("*") if each.is_file()),
        *(TOP / "releasenotes").rglob("*.yaml"),
    ):
        text = path.read_text(encoding="utf-8")
        yield path, re.sub(r"\s*\\\n\s*", " ", text)


@pytest.mark.parametrize("pattern", UNSAFE)
def test_no_command_that_is_not_safe(pattern: str) -> None:
    for path, text in read_documents():
        for line in text.splitlines():
            # A program's mere name in a list is no command.
            assert not re.search(pattern, line), (path, UNSAFE[pattern], line)


@pytest.mark.parametrize(
    "line",
    [
        "nsenter --target 4711 --all --setuid 0 --setgid 0 /bin/sh",
        "virsh -c lxc:/// lxc-enter-namespace web /bin/sh",
        "virsh -c lxc:/// console web",
        "chroot /srv/containers/web passwd",
        "curl https://example.org/install | sh",
        "sh -c 'echo $NAME'",
        "chmod -R 777 /srv",
        "lxc-userns domain idmap plain.xml > /tmp/plain.xml",
        "qemu-img convert -O raw web.qcow2 web.img",
        "debootstrap bookworm /srv/containers/web",
        "cat /run/lxc-userns/web/root/etc/passwd",
    ],
)
def test_commands_that_are_not_safe(line: str) -> None:
    assert [each for each in UNSAFE if re.search(each, line)]


def test_samples_are_not_in_the_range_of_directory_services() -> None:
    """Copying one does not give containers the IDs of users."""
    files = [
        TOP / "README.rst",
        TOP / "tools/demo",
        *(TOP / "src/lxc_userns").rglob("*.py"),
        *(TOP / "etc").rglob("*.sample"),
        *DOC.rglob("*.rst"),
    ]
    starts = re.compile(r"(?::(?=\d+:)|target=['\"]|owner )(\d{9,10})\b")
    found = {
        (int(match[1]), file.name)
        for file in files
        for match in starts.finditer(file.read_text("utf-8"))
    }
    assert len(found) > 10
    assert {each for each in found if each[0] in DIRECTORY_IDS} == set()


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    """Never with a clause in place of the noun, as in "What it has"."""
    clause = re.compile(
        r"(As|Have|How|That|What|Where|Which|Who|Whoever|Whose|Why)\b"
    )
    nodes = (
        node
        for room in ("src", "tests", "tools")
        for path in sorted((TOP / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )
    found = [
        text.splitlines()[0]
        for node in nodes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if (text := ast.get_docstring(node)) and clause.match(text)
    ]
    assert found == []


def fields_of(
    node: ast.ClassDef, classes: Mapping[str, Sequence[ast.ClassDef]]
) -> set[str]:
    """Return the fields of a class and its bases, and what it is made of."""
    found = set()
    for each in node.body:
        if isinstance(each, ast.AnnAssign):
            found.add(ast.unparse(each.target))
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__":
            found |= parameters_of(each)
    for base in node.bases:
        for each in classes.get(ast.unparse(base).split(".")[-1], ()):
            if each is not node:
                found |= fields_of(each, classes)
    return found


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return the names of all parameters of a function."""
    return {
        each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)
    }


def find_stale_parameters(trees: Iterable[ast.AST]) -> Iterator[str]:
    """Yield what docstrings say of parameters that are not there."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes: dict[str, list[ast.ClassDef]] = {}
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            classes.setdefault(node.name, []).append(node)
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            there = fields_of(node, classes)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            there = parameters_of(node)
        else:
            continue
        text = ast.get_docstring(node) or ""
        for name in re.findall(r"^:param (\w+):", text, re.MULTILINE):
            if name not in there:
                yield f"{node.name}: {name}"


def test_docstrings_describe_parameters_that_are_there() -> None:
    files = sorted((TOP / "src").rglob("*.py"))
    trees = [ast.parse(each.read_text("utf-8")) for each in files]
    assert [*find_stale_parameters(trees)] == []


def test_parameters_that_are_not_there() -> None:
    text = '''
class A:
    """A.

    :param a: there.
    :param b: not there.
    """
    a: int

class B(x.A):
    """B.

    :param a: of its base.
    """

    def f(self, a, *, b):
        """Do.

        :param b: there.
        :param c: not there.
        """
'''
    assert [*find_stale_parameters([ast.parse(text)])] == ["A: b", "f: c"]


def test_changelog_has_each_note_once_without_a_history(
    tmp_path: Path,
) -> None:
    path = DOC / "_ext/release_notes.py"
    spec = importlib.util.spec_from_file_location("release_notes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(TOP / "releasenotes", tmp_path / "releasenotes")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/shallow").touch()
    text = "\n".join(module.render(tmp_path, "1.2.3"))
    assert re.search(r"^1\.2\.3\n-----$", text, re.MULTILINE)
    names = [*(tmp_path / "releasenotes/notes").glob("*.yaml")]
    assert len(names) > 50
    items = 0
    for name in names:
        for section in yaml.safe_load(name.read_text()).values():
            notes = [section] if isinstance(section, str) else section
            for note in notes:
                items += not isinstance(section, str)
                assert note.splitlines()[0] in text, name
    assert len(re.findall(r"^- ", text, re.MULTILINE)) == items
