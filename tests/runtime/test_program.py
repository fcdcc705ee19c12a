import asyncio
import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow.python.summary.summary_iterator import summary_iterator

import tff_leak
from tff_leak.errors import InputError
from tff_leak.runtime import native, program
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory

_ENVIRONMENT = dict(os.environ, PYTHONPATH=pathlib.Path(tff_leak.__file__).parents[1])
# JAX sets it where TensorFlow is imported before tff_leak, as in these tests.
_ENVIRONMENT.pop("TF_CPP_MIN_LOG_LEVEL", None)


class Counting:
    """Adds the round's number; its loss is one over the sum."""

    def __init__(self, start=0.0, diverges_at=None):
        self.start = start
        self.diverges_at = diverges_at
        self.rounds = []

    def initialize(self):
        return {"total": np.float64(self.start), "seen": []}

    async def run_round(self, state, round_num):
        self.rounds.append(round_num)
        await asyncio.sleep(0)
        total = state["total"] + round_num
        loss = np.float32(np.nan if round_num == self.diverges_at else 1 / total)
        new_state = {"total": total, "seen": [*state["seen"], np.int32(round_num)]}
        return new_state, {"loss": loss, "total": total}


def _run(arms, path, rounds=3, config=None, **options):
    with RunDirectory.open(path, config or {"rounds": rounds}) as directory:
        return asyncio.run(
            program.run(arms, rounds=rounds, directory=directory, **options)
        )


def _rows(path):
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _events(path):
    """(round, tag, value) of all TensorBoard scalars."""
    return sorted(
        (event.step, value.tag, tf.make_ndarray(value.tensor).item())
        for file in (path / "tensorboard").iterdir()
        for event in summary_iterator(str(file))
        for value in event.summary.value
    )


def test_runs_all_arms_and_records_each_round(tmp_path):
    arms = {"attack": Counting(), "control": Counting(10.0)}
    states = _run(arms, tmp_path)
    assert states["attack"]["total"] == 6 and states["control"]["total"] == 16
    assert type(states["attack"]["total"]) is np.float64
    assert states["attack"]["seen"] == [1, 2, 3]
    rows = _rows(tmp_path)
    columns = ["attack/loss", "attack/total", "control/loss", "control/total"]
    assert list(rows[0]) == ["round", *columns]
    assert [row["round"] for row in rows] == ["1", "2", "3"]
    assert [row["control/total"] for row in rows] == ["11.0", "13.0", "16.0"]
    assert rows[1]["attack/loss"] == str(float(np.float32(1 / 3)))
    expected = sorted(
        (int(row["round"]), tag, float(np.float32(row[tag])))
        for row in rows
        for tag in columns
    )
    assert _events(tmp_path) == expected


def test_arms_run_side_by_side(tmp_path):
    """Each arm waits within its round for the other: alone neither would end."""
    barrier = asyncio.Barrier(2)

    class Waiting(Counting):
        async def run_round(self, state, round_num):
            await asyncio.wait_for(barrier.wait(), timeout=5)
            return await super().run_round(state, round_num)

    states = _run({"a": Waiting(), "b": Waiting()}, tmp_path)
    assert states["b"]["seen"] == [1, 2, 3]


def test_a_complete_run_returns_its_states_at_once(tmp_path):
    first = _run({"attack": Counting()}, tmp_path)
    before = (tmp_path / "metrics.csv").stat()
    again = Counting()
    assert _run({"attack": again}, tmp_path) == first
    assert again.rounds == []
    assert (tmp_path / "metrics.csv").stat() == before


@pytest.mark.parametrize("checkpoint_every", [1, 2])
def test_resumes_after_the_newest_complete_state(tmp_path, checkpoint_every):
    class Stopping(Counting):
        async def run_round(self, state, round_num):
            if round_num == 4:
                raise RuntimeError("stop")
            return await super().run_round(state, round_num)

    options = {"rounds": 6, "checkpoint_every": checkpoint_every}
    with pytest.raises(RuntimeError, match="stop"):
        _run({"attack": Stopping()}, tmp_path / "run", **options)
    # A damaged state, and files half-written, as a kill leaves them.
    states = tmp_path / "run" / "program_state"
    newest = states / "round_3.npz"
    newest.write_bytes(newest.read_bytes()[:100])
    (states / ".round_4.npz.9.tmp").write_bytes(b"torn")
    (states / "snapshots").mkdir(exist_ok=True)
    (states / "snapshots" / ".round_4.npz.9.tmp").touch()
    (tmp_path / "run" / "metrics.csv_temp1234").touch()

    arm = Counting()
    found = _run({"attack": arm}, tmp_path / "run", **options)
    assert arm.rounds == [3, 4, 5, 6]
    assert found == _run({"attack": Counting()}, tmp_path / "whole", rounds=6)
    for name in ("run", "whole"):
        assert [row["round"] for row in _rows(tmp_path / name)] == list("123456")
    csvs = [(tmp_path / n / "metrics.csv").read_bytes() for n in ("run", "whole")]
    assert csvs[0] == csvs[1]
    assert _events(tmp_path / "run") == _events(tmp_path / "whole")
    assert {p.name for p in states.iterdir()} == {
        "snapshots",
        "round_6.npz",
        f"round_{6 - checkpoint_every}.npz",
    }
    assert list((states / "snapshots").iterdir()) == []
    assert not list((tmp_path / "run").glob("*temp*"))


@pytest.mark.parametrize("rounds", [2, 3])
@pytest.mark.parametrize(
    "damage, found",
    [
        (lambda text: text[: text.rindex(b"2,")], "holds 1 rounds"),
        (lambda text: text.replace(b"1,", b"7,", 1), "holds 2 rounds"),
        (lambda text: b"", "cannot be read (KeyError)"),
        (lambda text: text + b'"3', "cannot be read (ValueError)"),
        (lambda text: b"\xff\x00", "cannot be read (UnicodeDecodeError)"),
        (None, "cannot be read (FileNotFoundError)"),
    ],
)
def test_rows_that_are_not_the_states_are_refused(tmp_path, rounds, damage, found):
    """Also of a finished run, whose figures would be made anew from them."""
    _run({"attack": Counting()}, tmp_path, rounds=2, config={"any": 1})
    metrics = tmp_path / "metrics.csv"
    text = damage and damage(metrics.read_bytes())
    metrics.unlink() if damage is None else metrics.write_bytes(text)
    with pytest.raises(InputError, match=re.escape(found)) as caught:
        _run({"attack": Counting()}, tmp_path, rounds=rounds, config={"any": 1})
    assert "expected the rounds 1 to 2" in str(caught.value)
    # Nothing is touched: whoever has the file can put it back.
    assert damage is None or metrics.read_bytes() == text


def test_no_state_at_all_starts_anew(tmp_path):
    _run({"attack": Counting()}, tmp_path)
    for path in (tmp_path / "program_state").glob("round_*"):
        path.write_bytes(b"")
    arm = Counting()
    assert _run({"attack": arm}, tmp_path)["attack"]["total"] == 6
    assert arm.rounds == [1, 2, 3]
    assert [row["round"] for row in _rows(tmp_path)] == ["1", "2", "3"]


@pytest.mark.parametrize("checkpoint_every", [1, 10])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, checkpoint_every):
    arms = {"attack": Counting(), "control": Counting(diverges_at=3)}
    message = "control: loss is nan after round 3.*lower the learning rate"
    with pytest.raises(InputError, match=message) as caught:
        _run(arms, tmp_path, rounds=5, checkpoint_every=checkpoint_every)
    assert "\n" not in str(caught.value)
    assert [row["round"] for row in _rows(tmp_path)] == ["1", "2"]
    repaired = {"attack": Counting(), "control": Counting()}
    _run(repaired, tmp_path, rounds=5)
    assert repaired["control"].rounds == [3, 4, 5]


def test_one_arms_failure_stops_the_others(tmp_path):
    class Endless(Counting):
        ended = False

        async def run_round(self, state, round_num):
            try:
                await asyncio.sleep(60)
            finally:
                self.ended = True

    class Failing(Counting):
        async def run_round(self, state, round_num):
            await asyncio.sleep(0.01)
            raise ZeroDivisionError

    endless = Endless()
    with pytest.raises(ZeroDivisionError):
        _run({"endless": endless, "failing": Failing()}, tmp_path)
    assert endless.ended


def test_snapshots_survive_and_are_made_again(tmp_path):
    calls = []

    async def on_round(round_num, states, metrics):
        calls.append((round_num, metrics["attack/total"]))
        if round_num % 2 == 0:
            return {"sample": np.full(2, states["attack"]["total"], np.float32)}
        return None

    options = {"rounds": 4, "on_round": on_round}
    _run({"attack": Counting()}, tmp_path, **options)
    assert calls == [(1, 1.0), (2, 3.0), (3, 6.0), (4, 10.0)]
    snapshots = tmp_path / "program_state" / "snapshots"
    before = (snapshots / "round_4.npz").read_bytes()

    # The state of round 4 is lost, as if the kill had come just before it.
    (tmp_path / "program_state" / "round_4.npz").unlink()
    (snapshots / "round_4.npz").write_bytes(b"stale")
    (snapshots / "round_9.npz").write_bytes(b"stale")
    _run({"attack": Counting()}, tmp_path, **options)
    with RunDirectory.open(tmp_path, {"rounds": 4}) as directory:
        found = program.load_snapshots(directory)
    assert {k: v["sample"].tolist() for k, v in found.items()} == {
        2: [3.0, 3.0],
        4: [10.0, 10.0],
    }
    assert (snapshots / "round_4.npz").read_bytes() == before


def test_a_damaged_snapshot_is_named(tmp_path):
    with RunDirectory.open(tmp_path, {}) as directory:
        path = directory.program_state / "snapshots" / "round_2.npz"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        with pytest.raises(InputError, match="round_2.npz: cannot be read"):
            program.load_snapshots(directory)


def test_a_metric_that_appears_late_gets_a_column(tmp_path):
    class Late(Counting):
        async def run_round(self, state, round_num):
            state, metrics = await super().run_round(state, round_num)
            return state, metrics | ({"judge": 0.5} if round_num == 2 else {})

    _run({"attack": Late()}, tmp_path)
    assert [row["attack/judge"] for row in _rows(tmp_path)] == ["", "0.5", ""]


def test_progress_starts_at_the_resumed_round(tmp_path):
    class Recorder(Progress):
        def __init__(self):
            super().__init__(5, "run", enabled=False)
            self.calls = []

        def start(self, done=0):
            self.calls.append(("start", done))

        def update(self, round_num, metrics):
            self.calls.append((round_num, metrics["attack/total"]))

    config = {"seed": 1}
    _run({"attack": Counting()}, tmp_path, 2, config)
    progress = Recorder()
    _run({"attack": Counting()}, tmp_path, 4, config, progress=progress)
    assert progress.calls == [("start", 2), (3, 6.0), (4, 10.0)]


def test_bad_arguments(tmp_path, capsys):
    arms = {"attack": Counting()}
    with pytest.raises(InputError, match="rounds is 0"):
        _run(arms, tmp_path, rounds=0, config={"seed": 0})
    with pytest.raises(InputError, match="checkpoint_every is 0"):
        _run(arms, tmp_path, config={"seed": 0}, checkpoint_every=0)
    with pytest.raises(ValueError, match="without '/'"):
        _run({"a/b": Counting()}, tmp_path / "slash")
    path = tmp_path / "other"
    _run(arms, path, rounds=2, config={"seed": 1})
    with pytest.raises(InputError, match="holds 2 rounds; expected at most 1"):
        _run(arms, path, rounds=1, config={"seed": 1})
    with pytest.raises(InputError, match=r"holds the arms \['attack'\]"):
        _run({"control": Counting()}, path, rounds=2, config={"seed": 1})
    assert capsys.readouterr() == ("", "")


def test_a_federated_process_with_its_state_as_tff_returns_it(tmp_path):
    """Two arms that sum over clients in TFF's worker; the state is an attrs class."""
    optimizer = tff.learning.optimizers.build_sgdm(1.0)
    weights = tff.FederatedType(tff.TensorType(np.float32, [2]), tff.CLIENTS)

    @tff.federated_computation(weights)
    def mean(values):
        return tff.federated_mean(values)

    class Averaging:
        def initialize(self):
            model = tff.learning.models.ModelWeights([np.zeros(2, np.float32)], ())
            return {"model": model, "optimizer": optimizer.initialize(())}

        async def run_round(self, state, round_num):
            values = [np.array([i, round_num], np.float32) for i in (1, 3)]
            trainable = state["model"].trainable[0] + await mean(values)
            model = tff.learning.models.ModelWeights([trainable], ())
            return {**state, "model": model}, {"first": trainable[0]}

    arms = {"attack": Averaging(), "control": Averaging()}
    with native.worker() as worker:
        context = worker.async_context()
        with tff.framework.get_context_stack().install(context):
            _run(arms, tmp_path, 2, {"seed": 1})
            states = _run(arms, tmp_path, 3, {"seed": 1})
    for arm in arms:
        model = states[arm]["model"]
        assert isinstance(model, tff.learning.models.ModelWeights)
        np.testing.assert_array_equal(model.trainable[0], np.float32([6, 6]))


# Imports TensorFlow once, then forks the runs: first one in peace, then one that is
# killed at random moments and started again until it ends by itself.
_KILLED_RUNS = """
import asyncio, collections, json, os, pathlib, signal, sys, time
import tff_leak  # Before TensorFlow, so that its start-up is quiet.
import numpy as np
import tensorflow_federated as tff
from tff_leak.runtime import program, signals, state_archive
from tff_leak.runtime.run_directory import RunDirectory

class Arm:
    def __init__(self, role):
        self.role = role

    def initialize(self):
        return {"weights": [np.zeros((100, 10), np.float32)], "steps": np.int64(0),
                "pool": [], "best": collections.OrderedDict(z=0.5, a=(1, True))}

    async def run_round(self, state, round_num):
        rng = np.random.default_rng([1, round_num, self.role])
        await asyncio.sleep(rng.uniform(0.01, 0.05))
        noise = rng.standard_normal((100, 10)).astype(np.float32)
        weights = state["weights"][0] * np.float32(0.9) + noise
        pool = [*state["pool"], noise[:2].astype(np.uint8)][-3:]
        best = collections.OrderedDict(z=state["best"]["z"] / 3, a=state["best"]["a"])
        return ({"weights": [weights], "steps": state["steps"] + np.int64(round_num),
                 "pool": pool, "best": best},
                {"loss": np.abs(weights).mean(), "norm": np.linalg.norm(weights)})

def on_round(round_num, states, metrics):
    if round_num % 3:
        return {name: state["weights"][0][:5] for name, state in states.items()}

def run(path, checkpoint_every):
    arms = {"attack": Arm(0), "control": Arm(1)}
    with RunDirectory.open(path, {"rounds": 24}) as directory:
        states = asyncio.run(program.run(
            arms, rounds=24, directory=directory, on_round=on_round,
            checkpoint_every=checkpoint_every))
    pathlib.Path(path, "final").write_bytes(state_archive.pack(states))

def fork(path, checkpoint_every=2):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with signals.ends_cleanly():
                run(path, checkpoint_every)
            status = 0
        except SystemExit as end:
            status = end.code
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    return child

def ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)

def wait_for(happened, child):
    deadline = time.monotonic() + 30
    while not happened() and not ended(child) and time.monotonic() < deadline:
        time.sleep(0.005)

def status_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def states(path):
    return {p.stem for p in pathlib.Path(path, "program_state").glob("round_*.npz")}

def rows(path):
    csv = pathlib.Path(path, "metrics.csv")
    return csv.read_text().splitlines()[1:] if csv.exists() else []

report = {"whole": status_of(fork("whole"))}

rng = np.random.default_rng(7)
report["kills"] = 0
while True:
    child = fork("killed")
    # A kill waits for a further state, so that each start gets somewhere.
    if report["kills"] < 4:
        before = states("killed")
        wait_for(lambda: states("killed") != before, child)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
    report["killed"] = status_of(child)
    if report["killed"] != -signal.SIGKILL:
        break
    report["kills"] += 1

for name in ("SIGTERM", "SIGINT"):
    child = fork(name, checkpoint_every=100)
    wait_for(lambda: len(rows(name)) >= 3, child)
    os.kill(child, getattr(signal, name))
    report[name] = status_of(child)
    report[f"{name} states"] = sorted(states(name))
    report[f"{name} last row"] = int(rows(name)[-1].split(",")[0])
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory):
    """The directory with the runs, and a report."""
    path = tmp_path_factory.mktemp("killed_runs")
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_RUNS],
        cwd=path,
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    return path, json.loads(done.stdout)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(killed_runs):
    path, report = killed_runs
    assert (report["whole"], report["killed"]) == (0, 0)
    assert report["kills"] >= 2
    names = ["final", "metrics.csv"] + [
        f"program_state/snapshots/round_{i}.npz" for i in range(1, 25) if i % 3
    ]
    for name in names:
        killed, whole = (path / run / name for run in ("killed", "whole"))
        assert killed.read_bytes() == whole.read_bytes(), name
    snapshots = [
        sorted(p.name for p in (path / run).glob("program_state/snapshots/*"))
        for run in ("killed", "whole")
    ]
    assert snapshots[0] == snapshots[1]
    assert _events(path / "killed") == _events(path / "whole")


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_run_that_is_asked_to_end_saves_its_last_round(killed_runs, name, status):
    _, report = killed_runs
    assert report[name] == status
    [state] = report[f"{name} states"]
    # The signal may come between the row of a round and its end.
    last = report[f"{name} last row"]
    assert state in (f"round_{last}", f"round_{last - 1}")


def test_ends_before_the_round_that_is_refused_and_so_does_a_resumed_run(tmp_path):
    asked = []

    def goes_on(round_num, states):
        asked.append(round_num)
        return states["attack"]["total"] + round_num <= 6

    first = Counting()
    states = _run({"attack": first}, tmp_path, rounds=9, goes_on=goes_on)
    assert first.rounds == [1, 2, 3]
    assert asked == [1, 2, 3, 4]
    assert states["attack"]["total"] == 6
    again = Counting()
    assert _run({"attack": again}, tmp_path, rounds=9, goes_on=goes_on) == states
    assert again.rounds == []
    assert [row["round"] for row in _rows(tmp_path)] == ["1", "2", "3"]
