"""Binaries that are started by themselves: `python -m` with a bad flag."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
# Those whose other tests of bad input fork a binary that is imported already; of the
# others there is a test like this one beside theirs.
BINARIES = [
    "experiments.run_key_protected",
    "experiments.run_leak_matrix",
    "experiments.run_server_gan",
    "experiments.run_update_attacks",
]


def test_an_unknown_flag_is_one_line(tmp_path):
    output = tmp_path / "run"
    # Side by side: most of the time of each is its start.
    processes = {
        module: subprocess.Popen(
            [sys.executable, "-m", module, f"--output_dir={output}", "--sead=1"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for module in BINARIES
    }
    for module, process in processes.items():
        out, errors = process.communicate(timeout=200)
        assert process.returncode == 2, (module, errors)
        [line] = errors.splitlines()
        assert line.startswith("error: Unknown command line flag 'sead'")
        assert out == ""
    assert not output.exists()
