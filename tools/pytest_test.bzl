"""A Bazel test that runs one pytest file."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_test(name, srcs, deps = [], data = [], size = "medium", tags = []):
    """Runs `srcs`, one pytest file, with the settings of pyproject.toml.

    Args:
      name: the target's name.
      srcs: a list with the test's file.
      deps: the libraries that the test uses.
      data: files that it reads.
      size: Bazel's test size; it sets the time limit (medium: 300 s).
      tags: tags of the target.
    """
    py_test(
        name = name,
        size = size,
        srcs = srcs + ["//tools:pytest_main.py"],
        args = ["$(location %s)" % srcs[0]],
        data = data + ["//:pyproject.toml"],
        # Bazel would put an empty __init__.py in every directory.
        legacy_create_init = 0,
        main = "//tools:pytest_main.py",
        tags = tags,
        deps = deps,
    )
