"""Benchmark c: a round in which the server keeps every client's row, against one
in which it does not.

    python -m benchmarks.observation

100 clients, `computations.fed_avg` in the in-process context. Observed, clients say who
they are, the aggregation gathers their updates, and the finalizer keeps them in its
state, as a malicious server does: what nobody used, a runtime could leave out.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from benchmarks import contexts, program, workloads
from benchmarks.figures import Bound, Figure, check_equal, compare
from benchmarks.harness import interleave
from benchmarks.workloads import Workload
from computations import fed_avg
from tff_leak.attacks.observation import (
    ClientData,
    client_data,
    identify_clients,
    observing_factory,
)
from tff_leak.models.batched_sgd import BatchSgd

_BOUND = Bound(at_most=1.05)
# Of the clients' mean update, summed by two aggregations in different orders.
_TOLERANCE = 1e-3


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns the figures of two models; see `program.Measure`."""
    context = contexts.in_process(threads)
    cnn = workloads.paper_cnn()._replace(name="CNN", clients=100, examples=20)
    regression = workloads.logistic_regression()._replace(name="logistic regression")
    return [_measure_model(work, context, seconds) for work in (cnn, regression)]


def build_plain(work: Workload) -> tff.learning.templates.LearningProcess:
    """Returns the project's federated averaging, nobody looking."""
    training = BatchSgd(learning_rate=work.learning_rate)
    return fed_avg.build_fed_avg(work.network, training=training)


def build_observed(work: Workload) -> tff.learning.templates.LearningProcess:
    """Returns the same, with every client's row in the state of the finalizer."""
    training = BatchSgd(learning_rate=work.learning_rate)
    client_work = fed_avg.build_fed_avg_client_work(work.network, training=training)
    return fed_avg.build_fed_avg(
        work.network,
        client_work=identify_clients(client_work),
        model_aggregator=observing_factory(tff.aggregators.MeanFactory()),
        finalizer=_keep_rows,
    )


def identified(datasets: Sequence[tf.data.Dataset]) -> list[ClientData]:
    """Returns clients' data with their numbers as ids."""
    return [client_data(dataset, number) for number, dataset in enumerate(datasets)]


def _measure_model(work: Workload, context: Any, seconds: float) -> Figure:
    datasets = workloads.client_datasets(work)
    contenders = {}
    weights = []
    for name, process, data in (
        ("observed", build_observed(work), identified(datasets)),
        ("not observed", build_plain(work), datasets),
    ):
        start = contexts.calling(context, process.initialize)()
        next_round = contexts.calling(context, process.next)
        state = next_round(start, data).state
        if name == "observed":
            _check_rows(state, work)
        weights.append(state.global_model_weights.trainable)
        contenders[name] = workloads.rounds(next_round, state, data)
    check_equal(work.name, *weights, _TOLERANCE)
    times = interleave(contenders, seconds=seconds)
    return compare(
        "c",
        f"{work.name}, {work.clients} clients",
        times,
        "observed",
        "not observed",
        bound=_BOUND,
        note=f"rows of {work.network.num_parameters} parameters",
    )


def _check_rows(state: Any, work: Workload) -> None:
    rows = state.finalizer[1]
    if list(rows.client_id) != list(range(work.clients)):
        raise AssertionError(f"{work.name}: expected each client's row, found {rows}")


def _keep_rows(
    weights_type: tff.Type, observed_type: tff.Type
) -> tff.learning.templates.FinalizerProcess:
    """A finalizer whose state is (that of SGD with rate 1, the last round's rows)."""
    sgd = tff.learning.templates.build_apply_optimizer_finalizer(
        tff.learning.optimizers.build_sgdm(1.0), weights_type
    )
    rows_type = observed_type.rows
    sgd_type = sgd.initialize.type_signature.result.member
    state_type = tff.types.to_type((sgd_type, rows_type))

    @tff.tensorflow.computation(sgd_type)
    def with_no_rows(state):
        def nothing(tensor_type):
            one = tf.zeros([1, *tensor_type.shape[1:]], tensor_type.dtype)
            return tf.boolean_mask(one, [False])  # of unknown length to TFF

        return state, tff.types.structure_from_tensor_type_tree(nothing, rows_type)

    @tff.federated_computation
    def initialize():
        return tff.federated_map(with_no_rows, sgd.initialize())

    @tff.federated_computation(
        tff.FederatedType(state_type, tff.SERVER),
        tff.FederatedType(weights_type, tff.SERVER),
        tff.FederatedType(observed_type, tff.SERVER),
    )
    def next_round(state, weights, observed):
        output = sgd.next(state[0], weights, observed.aggregate)
        return tff.templates.MeasuredProcessOutput(
            tff.federated_zip((output.state, observed.rows)),
            output.result,
            output.measurements,
        )

    return tff.learning.templates.FinalizerProcess(initialize, next_round)


if __name__ == "__main__":
    program.run(measure)
