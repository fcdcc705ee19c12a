"""Benchmark b: TFF's weighted federated averaging in the contexts it can run in.

    python -m benchmarks.fed_avg_contexts

On one thread, for three workloads, at turns:

- defaults: TFF's own context, everything as TFF has it;
- tuned: the same with `LoopImplementation.DATASET_ITERATOR` and lean options on the
  datasets;
- in_process: this project's context, `DATASET_ITERATOR`, datasets as they come;
- unchanged: the process of `defaults` in this project's context;
- hand-written: TensorFlow without TFF.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from benchmarks import contexts, program, workloads
from benchmarks.figures import Bound, Figure, check_equal, compare
from benchmarks.hand_written_fed_avg import build_round
from benchmarks.harness import Contender, interleave
from benchmarks.workloads import Workload

# Workload, and how many times as fast as the defaults `in_process` has to be.
_ROWS = (
    (workloads.paper_cnn, 1.15),
    (workloads.logistic_regression, 5.0),
    (workloads.large_mlp, 8.0),
)
_TOLERANCE = 1e-2  # oneDNN sums in an order of its own


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns the figures of all workloads; see `program.Measure`."""
    own = contexts.in_process(threads)
    figures: list[Figure] = []
    with contexts.tff_own(threads) as native:
        for build, speedup in _ROWS:
            figures += _measure_row(build(), speedup, native, own, seconds)
    return figures


def _measure_row(
    work: Workload, speedup: float, native: Any, own: Any, seconds: float
) -> list[Figure]:
    contenders, update_of = _contenders(work, native, own)
    reference = update_of["defaults"]()
    differences = {
        name: check_equal(f"{work.name}: {name}", update(), reference, _TOLERANCE)
        for name, update in update_of.items()
    }
    times = interleave(contenders, seconds=seconds, min_rounds=3)

    def figure(numerator, denominator, bound=None, note=""):
        return compare(
            "b", work.name, times, numerator, denominator, bound=bound, note=note
        )

    note = f"updates differ by at most {max(differences.values()):.1g} of their size"
    return [
        figure("defaults", "in_process", Bound(at_least=speedup), note),
        figure("tuned", "in_process", Bound(at_least=1.0)),
        figure("in_process", "hand-written"),
        figure("defaults", "unchanged", Bound(at_least=1.0)),
    ]


def _contenders(
    work: Workload, native: Any, own: Any
) -> tuple[dict[str, Contender], dict[str, Callable[[], list]]]:
    """What is timed, and what gives the update of the first round for comparison."""
    plain = workloads.client_datasets(work)
    lean = [workloads.tuned(dataset) for dataset in plain]
    stock = workloads.stock_fed_avg(work, iterator=False)
    iterating = workloads.stock_fed_avg(work, iterator=True)
    contenders: dict[str, Contender] = {}
    update_of: dict[str, Callable[[], list]] = {}
    for name, context, process, datasets in (
        ("defaults", native, stock, plain),
        ("tuned", native, iterating, lean),
        ("in_process", own, iterating, plain),
        ("unchanged", own, stock, plain),
    ):
        start = contexts.calling(context, process.initialize)()
        next_round = contexts.calling(context, process.next)
        contenders[name] = workloads.rounds(next_round, start, datasets)
        update_of[name] = _tff_update(next_round, start, datasets)

    run_round = build_round(work)
    weights = [tf.constant(w) for w in start.global_model_weights.trainable]
    contenders["hand-written"] = _repeated(run_round, weights, lean)
    update_of["hand-written"] = lambda: _difference(run_round(weights, lean), weights)
    return contenders, update_of


def _tff_update(next_round: Callable, start: Any, datasets: Any) -> Callable[[], list]:
    def update():
        state = next_round(start, datasets).state
        return _difference(
            state.global_model_weights.trainable, start.global_model_weights.trainable
        )

    return update


def _repeated(run_round: Callable, weights: list, datasets: Any) -> Contender:
    def run():
        nonlocal weights
        weights = run_round(weights, datasets)

    return run


def _difference(new: Sequence[Any], old: Sequence[Any]) -> list[Any]:
    return [a - b for a, b in zip(new, old, strict=True)]


if __name__ == "__main__":
    program.run(measure, threads=1)
