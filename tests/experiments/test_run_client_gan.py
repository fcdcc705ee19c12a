"""The binary: bad input, pipes, and runs that are killed and go on."""

# bazel: size = large

import hashlib
import json
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--dataset=digits",
    "--per_class=5",
    "--rounds=6",
    "--attack=generator_steps=2,fakes_per_turn=8,replay_turns=1",
    "--generator=optimizer=adam,learning_rate=0.001,base_filters=4",
    "--snapshot_every=2",
    "--threads=2",
]


BINARY = "experiments.run_client_gan"


def _command(*flags):
    return [sys.executable, "-m", BINARY, *flags]


def _run(*flags):
    return _captured(_command(*flags))


def _captured(command):
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _contents(directory: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


BAD = {
    "unknown flag": (["--round=3"], "round"),
    "value of the wrong type": (["--rounds=many"], "many"),
    "value out of range": (["--rounds=0"], "rounds"),
    "unknown data set": (["--dataset=digit"], "digit"),
    "data that are not there": (["--dataset=mnist", "--data_dir=nowhere"], "nowhere"),
    "settings before data": (
        ["--dataset=mnist", "--data_dir=nowhere", "--training=learning_rate=-1"],
        "learning_rate is -1",
    ),
    "settings of sums before data": (
        ["--dataset=mnist", "--data_dir=nowhere", "--secure_aggregation=bound=-1"],
        "bound is -1",
    ),
    "settings of user-level privacy before data": (
        ["--dataset=mnist", "--data_dir=nowhere", "--user_dp=clips=1"],
        "clips=1",
    ),
    "folder that is not there": (["--dataset=image_folder:nowhere"], "nowhere"),
    "class that nobody holds": (["--participants=0-3;5-9", "--targets=4"], "4"),
    "class of the adversary": (["--targets=7"], "7"),
    "class that does not exist": (["--participants=0-4;5-12"], "5-12"),
    "target that is no number": (["--targets=three"], "three"),
    "adversary that is not there": (["--adversaries=5"], "5"),
    "upload fraction of 0": (["--sharing=upload_fraction=0"], "upload_fraction"),
    "download fraction over 1": (["--sharing=download_fraction=1.1"], "1.1"),
    "unknown way to download": (
        ["--sharing=download_criterion=newest"],
        "download_criterion is 'newest'",
    ),
    "privacy without a budget": (["--sparse_vector=bound=0.1"], "epsilon_per_param"),
    "two upload fractions": (
        ["--sparse_vector=epsilon_per_parameter=1", "--sharing=upload_fraction=0.2"],
        "upload_fraction is 0.2 in sharing",
    ),
    "unknown setting": (["--attack=steps=3"], "steps=3"),
    "unknown optimiser": (["--generator=optimizer=sgdm"], "sgdm"),
    "momentum out of range": (
        ["--generator=optimizer=adam,momentum=2"],
        "momentum is 2",
    ),
    "momentum without adam": (["--generator=optimizer=sgd,momentum=0.9"], "momentum"),
    "threshold that does nothing": (["--sharing=threshold=0.1"], "threshold"),
    "negative rate": (["--training=learning_rate=-1"], "-1"),
    "unknown arm": (["--arms=attack,honest"], "honest"),
    "unknown order": (["--order=sorted"], "sorted"),
    "staleness without asynchrony": (["--max_staleness=2"], "2"),
    "averaging in turns": (["--joining=mean"], "--order is fixed"),
    "too few for user-level privacy": (
        ["--order=all_at_once", "--user_dp=clip=1,noise_multiplier=1"],
        "clients_per_round is 2",
    ),
    "folder of judges that is none": (["--judges=/dev/null"], "--judges is /dev/null"),
    "preset that is not there": (["--flagfile=configs/none.flags"], "none.flags"),
    "stray argument": (["digits"], "digits"),
}


@pytest.mark.parametrize("flags, named", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_changes_nothing(flags, named, tmp_path, forked):
    output = tmp_path / "run"
    result = forked(BINARY, *SMALL, f"--output_dir={output}", *flags)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert named in lines[0]
    assert result.stdout == ""
    assert not output.exists()


def test_bad_input_of_a_binary_that_is_started_by_itself(tmp_path):
    output = tmp_path / "run"
    result = _run(*SMALL, f"--output_dir={output}", "--dataset=digit")
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and "digit" in line
    assert result.stdout == ""
    assert not output.exists()


def test_broken_data_is_named(tmp_path, forked):
    pictures = tmp_path / "pictures"
    for name in ("cats", "dogs"):
        (pictures / name).mkdir(parents=True)
        for number in range(4):
            (pictures / name / f"{number}.png").write_bytes(b"no picture")
    before = _contents(tmp_path)
    output = tmp_path / "run"
    result = forked(
        BINARY,
        *SMALL,
        f"--dataset=image_folder:{pictures}",
        f"--output_dir={output}",
    )
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.strip().splitlines()
    assert ".png" in line
    assert _contents(tmp_path) == before


def test_no_output_dir(forked):
    result = forked(BINARY, *SMALL)
    assert result.returncode == 2
    assert result.stderr.startswith("error: --output_dir is missing")


def test_foreign_directory_is_left_alone(tmp_path, forked):
    (tmp_path / "thesis.txt").write_text("mine")
    before = _contents(tmp_path)
    result = forked(BINARY, *SMALL, f"--output_dir={tmp_path}")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert _contents(tmp_path) == before


def test_loss_that_is_not_finite(tmp_path):
    output = tmp_path / "run"
    result = _run(*SMALL, f"--output_dir={output}", "--training=learning_rate=1e38")
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.strip().splitlines()
    assert "loss" in line and "learning rate" in line
    assert not (output / "summary.json").exists()


class TestARun:
    """One undisturbed run, and what may happen to one like it."""

    @pytest.fixture(scope="class")
    def undisturbed(self, tmp_path_factory, judges):
        """Through a pipe, which ends when nobody holds it any more."""
        output = tmp_path_factory.mktemp("undisturbed") / "run"
        command = shlex.join(_command(*SMALL, f"--output_dir={output}", judges))
        result = _captured(["bash", "-o", "pipefail", "-c", f"{command} | cat"])
        assert result.returncode == 0, result.stderr
        return output, result

    def test_prints_its_finding_and_its_report_and_nothing_else(self, undisturbed):
        output, result = undisturbed
        finding, report = result.stdout.strip().splitlines()
        assert "digit 3" in finding
        assert report == f"Report: {output / 'report.html'}"
        assert result.stderr == ""

    def test_leaves_the_files_of_the_contract(self, undisturbed):
        output, _ = undisturbed
        names = {path.name for path in output.iterdir()} - {".lock"}
        assert names == {
            "config.json",
            "metrics.csv",
            "tensorboard",
            "program_state",
            "reconstructions.npz",
            "summary.json",
            "figures",
            "report.html",
        }

    def test_another_configuration_is_refused_and_changes_nothing(
        self, undisturbed, forked
    ):
        output, _ = undisturbed
        before = _contents(output)
        result = forked(BINARY, *SMALL, f"--output_dir={output}", "--seed=1")
        assert result.returncode == 2
        [line] = result.stderr.strip().splitlines()
        assert "seed" in line
        assert _contents(output) == before

    def test_killed_at_random_moments_it_ends_with_the_same_bits(
        self, undisturbed, tmp_path
    ):
        expected, _ = undisturbed
        output = tmp_path / "run"
        # Without the other run's judge: its training gives the same bits as well.
        flags = [*SMALL, f"--output_dir={output}"]
        random_moments = random.Random(20260)
        last_state = "program_state/round_6.npz"
        moments = [  # What to wait for, and for how many seconds more at most.
            (lambda process: time.sleep(1.0), 5.0),  # starting
            (lambda process: _wait_for_another_round(output, process), 0.4),
            # The judge is trained, before anything is scored.
            (lambda process: _wait_for(output / last_state, process), 2.0),
        ]
        for wait, longest in moments:
            process = subprocess.Popen(
                _command(*flags),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait(process)
            time.sleep(random_moments.uniform(0.0, longest))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
            assert not (output / "summary.json").exists()
        result = _run(*flags)
        assert result.returncode == 0, result.stderr
        for name in ("reconstructions.npz", "metrics.csv", last_state):
            assert (output / name).read_bytes() == (expected / name).read_bytes(), name
        summaries = [
            json.loads((o / "summary.json").read_text()) for o in (output, expected)
        ]
        assert summaries[0]["seconds"] is None  # nobody knows
        assert summaries[1]["seconds"] > 0
        assert summaries[0]["pooled"] == summaries[1]["pooled"]

    @pytest.mark.parametrize("runtime", ["in_process", "native"])
    def test_ctrl_c_is_one_line_and_leaves_no_worker(self, tmp_path, runtime):
        output = tmp_path / "run"
        process = subprocess.Popen(
            _command(
                *SMALL,
                "--rounds=500",
                "--arms=attack",
                f"--runtime={runtime}",
                f"--output_dir={output}",
            ),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _wait_for_another_round(output, process)
            workers = _children(process.pid)
            assert bool(workers) == (runtime == "native")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 130
        assert errors.strip() == "interrupted"
        deadline = time.monotonic() + 10
        while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(_alive(pid) for pid in workers)


def _wait_for_another_round(output: pathlib.Path, process: subprocess.Popen) -> None:
    """Waits until a round more than now stands in the metrics, or the run has ended."""

    def rounds():
        path = output / "metrics.csv"
        return path.read_text().count("\n") if path.exists() else 0

    before = rounds()
    deadline = time.monotonic() + 120
    while rounds() <= max(before, 1) and process.poll() is None:
        assert time.monotonic() < deadline, "no round in two minutes"
        time.sleep(0.02)


def _wait_for(path: pathlib.Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline, f"no {path.name} in two minutes"
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    lists = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"
