"""The package as a whole: importing it prints nothing, and nothing at exit."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    "modules",
    [
        "tff_leak",
        "tff_leak.attacks.client_gan, tff_leak.metrics.judge, tff_leak.report.html",
        "computations.dssgd, computations.evaluation",
        "experiments.client_gan_program, experiments.client_gan_report",
    ],
)
def test_imports_print_nothing(modules):
    result = subprocess.run(
        [sys.executable, "-c", f"import {modules}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
