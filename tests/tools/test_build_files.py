"""The generator of BUILD files, on small trees whose answer is written by hand."""

import pathlib

import pytest

from tools import build_files

PACKAGE = 'package(default_visibility = ["//visibility:public"])\n'


def _write(root: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def small_tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A library, a program that uses it and a test of the program."""
    return _write(
        tmp_path,
        {
            "tff_leak/__init__.py": "",
            "tff_leak/errors.py": "import numpy as np\n",
            "tff_leak/report/__init__.py": "",
            "tff_leak/report/html.py": "from tff_leak.errors import InputError\n",
            "tff_leak/report/report.j2": "{{ title }}",
            "experiments/__init__.py": "",
            "experiments/run_it.py": (
                "from tff_leak.report import html\n"
                'if __name__ == "__main__":\n    html.main()\n'
            ),
            "experiments/configs/digits.flags": "--rounds=3\n",
            "tests/conftest.py": "",
            "tests/experiments/test_run_it.py": (
                "# bazel: size = large\n"
                "# bazel: tags = slow\n"
                "def test_it():\n"
                '    command = ["python", "-m", "experiments.run_it"]\n'
                '    text = (ROOT / "docs" / "use.md").read_text()\n'
                '    written = "tff_leak/BUILD"\n'
            ),
            "docs/use.md": (
                "Use it:\n```python\nfrom tff_leak import errors\n```\nnot this:\n"
                "```\nimport tff_leak.report.html\n```\n"
            ),
        },
    )


def test_library_with_data(small_tree):
    assert build_files.build_files(small_tree)["tff_leak/report/BUILD"] == (
        build_files.HEADER
        + '\nload("@rules_python//python:defs.bzl", "py_library")\n\n'
        + PACKAGE
        + """
filegroup(
    name = "data",
    srcs = ["report.j2"],
)

py_library(
    name = "__init__",
    srcs = ["__init__.py"],
    data = [":data"],
    deps = ["//tff_leak:__init__"],
)

py_library(
    name = "html",
    srcs = ["html.py"],
    deps = [
        ":__init__",
        "//tff_leak:errors",
    ],
)
"""
    )


def test_program_with_flag_files(small_tree):
    assert build_files.build_files(small_tree)["experiments/BUILD"] == (
        build_files.HEADER
        + '\nload("@rules_python//python:defs.bzl", "py_binary", "py_library")\n\n'
        + PACKAGE
        + """
filegroup(
    name = "data",
    srcs = ["configs/digits.flags"],
)

py_library(
    name = "__init__",
    srcs = ["__init__.py"],
    data = [":data"],
)

py_library(
    name = "run_it_lib",
    srcs = ["run_it.py"],
    deps = [
        ":__init__",
        "//tff_leak/report:html",
    ],
)

py_binary(
    name = "run_it",
    srcs = ["run_it.py"],
    deps = [":run_it_lib"],
)
"""
    )


def test_test_depends_on_what_its_strings_name(small_tree):
    files = build_files.build_files(small_tree)
    assert files["tests/experiments/BUILD"] == (
        build_files.HEADER
        + '\nload("//tools:pytest_test.bzl", "pytest_test")\n\n'
        + PACKAGE
        + """
pytest_test(
    name = "test_run_it",
    size = "large",
    srcs = ["test_run_it.py"],
    data = ["//:docs/use.md"],
    tags = ["slow"],
    deps = [
        "//experiments:run_it_lib",
        "//tests:conftest",
        "//tff_leak:errors",
    ],
)
"""
    )
    assert '    "docs/use.md",\n' in files["BUILD"]


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("import tff_leak.errors", "//tff_leak:errors"),
        ("from tff_leak import errors", "//tff_leak:errors"),
        ("from tff_leak.errors import InputError", "//tff_leak:errors"),
        ("def f():\n    from tff_leak.errors import A", "//tff_leak:errors"),
        ("from .. import errors", "//tff_leak:errors"),
        ("from . import other", ":other"),
        ("from .other import name", ":other"),
        ("# bazel: dep = tff_leak.errors", "//tff_leak:errors"),
    ],
)
def test_forms_of_import(tmp_path, line, label):
    _write(
        tmp_path,
        {
            "tff_leak/__init__.py": "",
            "tff_leak/errors.py": "",
            "tff_leak/data/__init__.py": "",
            "tff_leak/data/other.py": "",
            "tff_leak/data/user.py": line + "\n",
        },
    )
    text = build_files.build_files(tmp_path)["tff_leak/data/BUILD"]
    user = text[text.index('name = "user"') :]
    assert f'        "{label}",\n' in user
    # That and the package, which is not repeated.
    assert user.count('        "') == 2


@pytest.mark.parametrize(
    "source",
    [
        'monkeypatch.setattr("tff_leak.errors.InputError", None)',
        'CODE = """\n    from tff_leak import errors\n    errors.f()\n"""',
        'SCRIPT = "helper.py"',
        'SCRIPT = ROOT / "tests" / "helper.py"',
    ],
)
def test_strings_of_a_test(tmp_path, source):
    _write(
        tmp_path,
        {
            "tff_leak/__init__.py": "",
            "tff_leak/errors.py": "",
            "tests/helper.py": "",
            "tests/test_it.py": source + "\n",
        },
    )
    text = build_files.build_files(tmp_path)["tests/BUILD"]
    expected = ":helper" if "helper" in source else "//tff_leak:errors"
    assert f'deps = ["{expected}"]' in text


def test_a_folder_is_read_only_where_a_comment_names_it(tmp_path):
    text = "# bazel: data = docs\nNAMES = ('docs', 'other')\n"
    files = {"docs/a.md": "", "other/b.md": "", "tests/test_it.py": text}
    _write(tmp_path, files)
    files = build_files.build_files(tmp_path)
    assert 'data = ["//:docs"]' in files["tests/BUILD"]
    assert '    "docs",\n' in files["BUILD"]
    assert "other" not in files["tests/BUILD"] + files["BUILD"]


def test_docstring_is_no_dependency(tmp_path):
    _write(
        tmp_path,
        {
            "tff_leak/__init__.py": "",
            "tff_leak/errors.py": "",
            "tests/test_it.py": '"""Tests nothing of tff_leak.errors."""\n',
        },
    )
    assert "deps" not in build_files.build_files(tmp_path)["tests/BUILD"]


def test_check_finds_a_missing_dependency(small_tree, capsys):
    root = ["--root", str(small_tree)]
    assert build_files.main(["--write", *root]) == 0
    assert build_files.main(["--check", *root]) == 0
    assert capsys.readouterr().out.count("wrote: ") == 6
    _write(small_tree, {"tff_leak/errors.py": "import tff_leak.report.html\n"})
    _write(small_tree, {"tff_leak/report/html.py": ""})
    assert build_files.main(["--check", *root]) == 1
    assert capsys.readouterr().out == "stale: tff_leak/BUILD\nstale: " + (
        "tff_leak/report/BUILD\n"
    )
    assert build_files.main(["--write", *root]) == 0
    assert "//tff_leak/report:html" in (small_tree / "tff_leak/BUILD").read_text()
    assert build_files.main(["--check", *root]) == 0


def test_left_over_build_file_is_removed_and_a_foreign_one_kept(small_tree):
    root = ["--root", str(small_tree)]
    foreign = "tests/data/BUILD"
    _write(small_tree, {"tests/old/test_gone.py": "", foreign: "# By hand.\n"})
    build_files.main(["--write", *root])
    (small_tree / "tests/old/test_gone.py").unlink()
    assert build_files.main(["--check", *root]) == 1
    build_files.main(["--write", *root])
    assert not (small_tree / "tests/old/BUILD").exists()
    assert (small_tree / foreign).read_text() == "# By hand.\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"tff_leak/a.py": "\nimport tff_leak.nothing\n"},
            "tff_leak/a.py:2: imports tff_leak.nothing, expected a module of the "
            "project; add it or correct the import",
        ),
        (
            {"tff_leak/a.py": "def f(:\n"},
            "tff_leak/a.py:1: expected valid Python, found invalid syntax; correct "
            "the file first",
        ),
        (
            {
                "tff_leak/a.py": "import tff_leak.b\n",
                "tff_leak/b.py": "from tff_leak import a\n",
            },
            "tff_leak/a.py: imports form a circle, which Bazel refuses: tff_leak.a -> "
            "tff_leak.b -> tff_leak.a; break it (an __init__.py must not import from "
            "its package)",
        ),
    ],
)
def test_tree_that_cannot_be_described(tmp_path, capsys, files, message):
    _write(tmp_path, {"tff_leak/__init__.py": "", **files})
    assert build_files.main(["--check", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"build_files: {message}\n"
