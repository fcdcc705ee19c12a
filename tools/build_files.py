"""Writes the BUILD files from the imports of the Python modules, or checks them.

    python tools/build_files.py --write
    python tools/build_files.py --check

Each module becomes one `py_library` of its own name whose `deps` are exactly the
project's modules that it imports. A package's `__init__.py` is a target too, which
every module of the package depends on, because Python runs it first; it carries the
package's data files (templates, flag files). A module that runs as a program
(`if __name__ == "__main__"`) is a `py_binary` of its name beside a library
`NAME_lib`. A test module becomes a `pytest_test` (tools/pytest_test.bzl), whose
dependencies also include what it only names in a string: a module (`python -m`), a
script it starts, a file it reads, what a Markdown file's Python code imports.

Comments in a module add what cannot be seen from its syntax tree:

    # bazel: size = large            (tests: a limit of 900 s, not 300 s)
    # bazel: tags = slow             (left out by --test_tag_filters=-slow)
    # bazel: dep = tff_leak.errors   (a module that is imported by a computed name)
    # bazel: data = docs/composing.md    (or a folder, with all that is in it)

Third-party packages do not appear: they come from the virtual environment that the
lock file describes (see the BUILD file of the root).
"""

import argparse
import ast
import dataclasses
import pathlib
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator

TOP_DIRECTORIES = (
    "benchmarks",
    "computations",
    "experiments",
    "tests",
    "tff_leak",
    "tools",
)
# Directories below these that hold no targets of this project.
IGNORED = ("__pycache__", "bazel_offline")
DATA_SUFFIXES = {
    ".css",
    ".csv",
    ".flags",
    ".j2",
    ".json",
    ".npz",
    ".pgm",
    ".png",
    ".txt",
}
HEADER = "# Written by tools/build_files.py; run it with --write after a change.\n"
ROOT_COMMENT = """\
#
# Third-party packages are not Bazel targets. They are those of requirements.lock,
# installed by `make` in .venv, and tools/bazel_test.sh puts them on the path of the
# tests, so that Bazel and pytest run against the same versions. The project itself
# is not taken from there: a missing dependency between its modules fails the test.
"""
VISIBILITY = 'package(default_visibility = ["//visibility:public"])\n'
# Files that tools/pytest_test.bzl names, so that other packages may use them.
MACRO_FILES = ("pyproject.toml", "tools/pytest_main.py")


class BuildFileError(Exception):
    """The tree cannot be described: one line that names the file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A Python file: its dotted name, and its path relative to the root."""

    name: str
    path: pathlib.PurePosixPath
    tree: ast.Module
    pragmas: dict[str, tuple[str, ...]]

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__.py` of a package."""
        return self.path.name == "__init__.py"

    @property
    def is_test(self) -> bool:
        """Whether pytest collects it."""
        return self.path.parts[0] == "tests" and self.path.name.startswith("test_")

    @property
    def is_program(self) -> bool:
        """Whether it has a top-level `if __name__ == "__main__":`."""
        return any(
            isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
            for node in self.tree.body
        )

    @property
    def target(self) -> str:
        """The name of its library."""
        return self.path.stem + ("_lib" if self.is_program else "")

    @property
    def directory(self) -> str:
        """The directory that it lies in, which is its Bazel package."""
        return self.path.parent.as_posix()


def find_modules(root: pathlib.Path) -> dict[str, Module]:
    """Returns the project's modules under `root` by their dotted names.

    Raises:
        BuildFileError: if a module is not valid Python.
    """
    modules = {}
    for path in sorted(_walk(root, {".py"})):
        relative = pathlib.PurePosixPath(path.relative_to(root).as_posix())
        parts = relative.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_text(encoding="utf-8")
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise BuildFileError(
                f"{relative}:{error.lineno}: expected valid Python, found "
                f"{error.msg}; correct the file first"
            ) from error
        modules[name] = Module(name, relative, tree, _pragmas(source))
    return modules


def _walk(root: pathlib.Path, suffixes: set[str]) -> Iterator[pathlib.Path]:
    """Yields the files with one of `suffixes` in the directories of the project."""
    for top in TOP_DIRECTORIES:
        for path in (root / top).rglob("*"):
            inner = path.relative_to(root).parts
            hidden = any(part.startswith(".") for part in inner)
            if path.suffix in suffixes and path.is_file() and not hidden:
                if not set(inner) & set(IGNORED):
                    yield path


def _pragmas(source: str) -> dict[str, tuple[str, ...]]:
    """Returns the `# bazel: key = value, value` comments of a module."""
    found: dict[str, tuple[str, ...]] = {}
    for key, value in re.findall(r"^# bazel: (\w+) = (.+)$", source, re.MULTILINE):
        found[key] = found.get(key, ()) + tuple(
            part.strip() for part in value.split(",")
        )
    return found


def imports(tree: ast.AST, module: Module) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yields (what it can mean, line) for everything that `tree` imports.

    `import a.b` can mean the module `a.b` only; `from a import b` the module `a.b`
    or, if there is none, a name in `a`. Relative imports are made absolute.
    """
    package = module.path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.name,), node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join((*above, *filter(None, [node.module])))
            for alias in node.names:
                yield (f"{prefix}.{alias.name}", prefix), node.lineno


def _first(names: Iterable[str], modules: dict[str, Module]) -> Module | None:
    """Returns the module of the first name that is one, or None."""
    return next((modules[name] for name in names if name in modules), None)


def _imported(
    names: tuple[str, ...], line: int, importer: Module, modules: dict[str, Module]
) -> Module | None:
    """Returns the project's module behind an import, or None for third parties."""
    if names[0].partition(".")[0] not in TOP_DIRECTORIES:
        return None
    found = _first(names, modules)
    if found is None:
        raise BuildFileError(
            f"{importer.path}:{line}: imports {names[0]}, expected a module of the "
            "project; add it or correct the import"
        )
    return found


def _strings(module: Module) -> Iterator[str]:
    """Yields the strings of a module, docstrings apart, and paths put together by /.

    `ROOT / "docs" / "composing.md"` gives `docs/composing.md`.
    """
    docstrings = {
        id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, str):
                yield node.value
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = []
            while isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
                parts.insert(0, str(node.right.value))
                node = node.left
            yield "/".join(parts)


def _code_blocks(module: Module, root: pathlib.Path) -> Iterator[str]:
    """Yields the Python code in the Markdown files that a test reads."""
    for path in _files_read(module, root):
        if path.endswith(".md"):
            text = (root / path).read_text(encoding="utf-8")
            yield from re.findall(
                r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE
            )


def _named_modules(
    module: Module, modules: dict[str, Module], root: pathlib.Path
) -> Iterator[Module]:
    """Yields the modules that a test names in its strings or in Markdown it runs."""
    by_path = {other.path.as_posix(): other for other in modules.values()}
    dotted = re.compile(rf"\b(?:{'|'.join(TOP_DIRECTORIES)})(?:\.\w+)+")
    for text in (*_strings(module), *_code_blocks(module, root)):
        for path in (text, f"{module.directory}/{text}"):
            if path in by_path:
                yield by_path[path]
        for name in dotted.findall(text):
            if found := _first((name, name.rpartition(".")[0]), modules):
                yield found
        if "import" in text:
            try:
                code = ast.parse(textwrap.dedent(text))
            except SyntaxError:
                continue
            for names, _ in imports(code, module):
                if found := _first(names, modules):
                    yield found


def _files_read(module: Module, root: pathlib.Path) -> Iterator[str]:
    """Yields the files, Python apart, that a test names by their path in the tree.

    A folder only where a comment names it: many strings are one by chance.
    """
    commented = module.pragmas.get("data", ())
    for text in (*_strings(module), *commented):
        path = pathlib.PurePosixPath(text)
        if not text or "\n" in text or path.is_absolute() or ".." in path.parts:
            continue
        if path.name == "BUILD":  # Whether it exists depends on this program.
            continue
        if path.suffix == ".py" or len(text) >= 200:
            continue
        if (root / path).is_file() or (text in commented and (root / path).is_dir()):
            yield path.as_posix()


def dependencies(
    module: Module, modules: dict[str, Module], root: pathlib.Path
) -> set[str]:
    """Returns the names of the project's modules that `module` depends on.

    Raises:
        BuildFileError: if it imports a module that is not there.
    """
    written = [
        *imports(module.tree, module),
        *(((name,), 1) for name in module.pragmas.get("dep", ())),
    ]
    found = {
        target.name
        for names, line in written
        if (target := _imported(names, line, module, modules))
    }
    # Python runs the __init__.py above a module first.
    found.add(".".join(module.path.parts[: -2 if module.is_package else -1]))
    if module.is_test:
        found |= {other.name for other in _named_modules(module, modules, root)}
    if module.path.parts[0] == "tests":
        # pytest runs the conftest.py of each directory above a test.
        found |= {
            ".".join((*parent.parts, "conftest")) for parent in module.path.parents
        }
    return (found & set(modules)) - {module.name}


def _check_no_cycle(graph: dict[str, set[str]], modules: dict[str, Module]) -> None:
    """Raises BuildFileError if modules depend on each other in a circle."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circle = " -> ".join((*trail[trail.index(name) :], name))
            raise BuildFileError(
                f"{modules[name].path}: imports form a circle, which Bazel refuses: "
                f"{circle}; break it (an __init__.py must not import from its package)"
            )
        if name not in done:
            for following in sorted(graph[name]):
                visit(following, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def _attribute(name: str, values: Iterable[str]) -> str:
    """Returns one attribute with a list of strings, in buildifier's layout."""
    values = list(values)
    if len(values) == 1:
        return f'    {name} = ["{values[0]}"],\n'
    lines = "".join(f'        "{value}",\n' for value in values)
    return f"    {name} = [\n{lines}    ],\n"


def _rule(kind: str, name: str, **lists: Iterable[str] | str) -> str:
    """Returns a rule; empty lists are left out."""
    text = f'{kind}(\n    name = "{name}",\n'
    for key, value in lists.items():
        if value and isinstance(value, str):
            text += f'    {key} = "{value}",\n'
        elif value := list(value):
            text += _attribute(key, value)
    return text + ")\n"


def _sorted_labels(labels: Iterable[str]) -> list[str]:
    """Sorts labels as buildifier does: those of the same package come first."""
    return sorted(set(labels), key=lambda label: label.replace(":", " "))


class _Tree:
    """The modules of the project and where each file belongs."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.modules = find_modules(root)
        self.graph = {
            name: dependencies(module, self.modules, root)
            for name, module in self.modules.items()
        }
        _check_no_cycle(self.graph, self.modules)
        self.directories = sorted({m.directory for m in self.modules.values()})
        self.data: dict[str, list[str]] = {}
        for path in sorted(_walk(root, DATA_SUFFIXES)):
            relative = path.relative_to(root).as_posix()
            self.data.setdefault(self.owner(relative), []).append(relative)
        self.exports = {path for path in MACRO_FILES if (root / path).is_file()}
        for module in self.modules.values():
            if module.is_test:
                self.exports |= set(self.files_read(module))

    def owner(self, path: str) -> str:
        """Returns the nearest directory above `path` that has a BUILD file."""
        for parent in pathlib.PurePosixPath(path).parents:
            if parent.as_posix() in self.directories:
                return parent.as_posix()
        return ""

    def files_read(self, module: Module) -> list[str]:
        """Returns the files that a test reads and no package carries as its data."""
        carried = {path for paths in self.data.values() for path in paths}
        return [path for path in _files_read(module, self.root) if path not in carried]

    def label(self, directory: str, target: str, seen_from: str) -> str:
        """Returns the label of a target as written in another BUILD file."""
        return f":{target}" if directory == seen_from else f"//{directory}:{target}"

    def data_labels(self, module: Module) -> list[str]:
        """Returns the labels of the data files that a module needs at run time."""
        here = module.directory
        labels = set()
        # The __init__.py carries a package's data; tests have none.
        if here in self.data and (
            module.is_package or here == "tests" or "tests/" in here
        ):
            labels.add(":data")
        if module.is_test:
            for path in _files_read(module, self.root):
                owner = self.owner(path)
                inner = path.removeprefix(owner).lstrip("/")
                target = "data" if path in self.data.get(owner, ()) else inner
                labels.add(self.label(owner, target, here))
        return _sorted_labels(labels)

    def rules(self, module: Module) -> str:
        """Returns the rules of one module."""
        here = module.directory
        needed = [self.modules[name] for name in self.graph[module.name]]
        attributes: dict[str, Iterable[str] | str] = {
            "srcs": [module.path.name],
            "data": self.data_labels(module),
            "tags": module.pragmas.get("tags", ()) if module.is_test else (),
            "deps": _sorted_labels(
                self.label(other.directory, other.target, here) for other in needed
            ),
        }
        if module.is_test:
            size = "".join(module.pragmas.get("size", ()))
            return _rule("pytest_test", module.target, size=size, **attributes)
        text = _rule("py_library", module.target, **attributes)
        if module.is_program:
            program = {"srcs": [module.path.name], "deps": [f":{module.target}"]}
            text += "\n" + _rule("py_binary", module.path.stem, **program)
        return text

    def build_file(self, directory: str) -> str:
        """Returns the text of one directory's BUILD file."""
        modules = [m for m in self.modules.values() if m.directory == directory]
        modules.sort(key=lambda module: module.path.name)
        body = [self.rules(module) for module in modules]
        kinds = sorted(set(re.findall(r"^(py_\w+)\(", "\n".join(body), re.MULTILINE)))
        text = HEADER + (ROOT_COMMENT if not directory else "") + "\n"
        if kinds:
            names = ", ".join(f'"{kind}"' for kind in kinds)
            text += f'load("@rules_python//python:defs.bzl", {names})\n'
        if any(module.is_test for module in modules):
            text += 'load("//tools:pytest_test.bzl", "pytest_test")\n'
        parts = [text + ("\n" if not text.endswith("\n\n") else "") + VISIBILITY]
        if exported := sorted(p for p in self.exports if self.owner(p) == directory):
            names = [path.removeprefix(directory).lstrip("/") for path in exported]
            parts.append(_exports(names))
        if directory in self.data:
            files = [
                p.removeprefix(directory).lstrip("/") for p in self.data[directory]
            ]
            parts.append(_rule("filegroup", "data", srcs=files))
        return "\n".join(parts + body)


def _exports(names: list[str]) -> str:
    lines = "".join(f'    "{name}",\n' for name in names)
    return f"exports_files([\n{lines}])\n"


def build_files(root: pathlib.Path) -> dict[str, str]:
    """Returns the text of every BUILD file by its path relative to `root`.

    Raises:
        BuildFileError: if a module is not valid Python, imports a module that is
            not there, or if imports form a circle.
    """
    tree = _Tree(root)
    return {
        f"{directory}/BUILD".lstrip("/"): tree.build_file(directory)
        for directory in ("", *tree.directories)
    }


def stale(root: pathlib.Path) -> dict[str, str | None]:
    """Returns what would have to be written, by path; None stands for removal."""
    expected = build_files(root)
    changes: dict[str, str | None] = {
        path: text
        for path, text in expected.items()
        if not (root / path).is_file()
        or (root / path).read_text(encoding="utf-8") != text
    }
    for top in TOP_DIRECTORIES:
        for path in (root / top).rglob("BUILD"):
            relative = path.relative_to(root).as_posix()
            written_here = path.read_text(encoding="utf-8").startswith(HEADER)
            if relative not in expected and written_here:
                changes[relative] = None
    return changes


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks the BUILD files of the tree that this file lies in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="fail if one is stale")
    mode.add_argument("--write", action="store_true", help="write those that are stale")
    parser.add_argument(
        "--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[1]
    )
    options = parser.parse_args(arguments)
    try:
        changes = stale(options.root)
    except BuildFileError as error:
        print(f"build_files: {error}", file=sys.stderr)
        return 1
    for path, text in sorted(changes.items()):
        print(f"{'wrote' if options.write else 'stale'}: {path}")
        if options.write and text is None:
            (options.root / path).unlink()
        elif options.write:
            (options.root / path).write_text(text, encoding="utf-8")
    if options.check and changes:
        print("build_files: run `python tools/build_files.py --write`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
