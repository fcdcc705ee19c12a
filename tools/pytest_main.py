"""Runs the pytest file that is given as an argument: the `main` of Bazel's tests."""

import os
import sys

import pytest


def _hide_the_checkout() -> None:
    """Removes the checkout, installed editable, from the path.

    Otherwise a package that is missing among a test's dependencies would be found
    there. The current directory has what Bazel laid out for the test.
    """
    sys.path[:] = [
        path
        for path in sys.path
        if not os.path.isdir(os.path.join(path, "tff_leak"))
        or os.path.samefile(path, os.getcwd())
    ]


if __name__ == "__main__":
    _hide_the_checkout()
    options = ["-rs", "-p", "no:cacheprovider"]
    if "XML_OUTPUT_FILE" in os.environ:
        options.append("--junitxml=" + os.environ["XML_OUTPUT_FILE"])
    if "TESTBRIDGE_TEST_ONLY" in os.environ:  # bazel test --test_filter=...
        options.append("-k=" + os.environ["TESTBRIDGE_TEST_ONLY"])
    sys.exit(pytest.main(options + sys.argv[1:]))
