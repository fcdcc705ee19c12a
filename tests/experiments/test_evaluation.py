"""Where judges are kept follows from a flag."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments import evaluation
from tff_leak.data import sources
from tff_leak.metrics.judge import train_judge
from tff_leak.models import classifiers

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def trained(monkeypatch):
    """Counts trainings, which are short."""
    seen = []

    def train(examples, *, weights=None, **settings):
        seen.append(weights is None)
        return train_judge(examples, weights=weights, epochs=1, **settings)

    monkeypatch.setattr(evaluation, "train_judge", train)
    yield seen
    evaluation.keep_judges(None)


def test_runs_of_one_seed_share_a_judge_and_others_do_not(trained, tmp_path):
    source = sources.load("digits")
    examples = source.train.take(range(60))
    cnn = classifiers.hitaj_mnist(num_outputs=11)
    mlp = classifiers.mlp(10, (32, 32, 1))

    def answers(network, seed):
        judge, _ = evaluation.build_judge(network, source, examples, seed=seed)
        return judge.features(source.train.images[:9])

    evaluation.keep_judges(tmp_path)
    first = answers(cnn, 0)
    np.testing.assert_array_equal(answers(cnn, 0), first)
    assert trained == [True, False]
    answers(cnn, 1)
    answers(mlp, 0)  # It sees other pixels.
    assert trained == [True, False, True, True]
    evaluation.keep_judges(None)
    np.testing.assert_array_equal(answers(cnn, 0), first)
    assert trained[4:] == [True]


_START = """
import pathlib, sys
from absl import flags
from experiments import common_flags, evaluation
for judges in sys.argv[1:]:
    given = [f"--judges={judges}"] if judges else []
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["x", "--output_dir=run", "--threads=1", *given])
    common_flags.start("runs/x")
    print(evaluation._judges)
"""


def test_the_flag_says_where(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _START, "", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None", str(tmp_path)]
