"""A server that looks: an aggregation that also keeps every client's update.

A malicious server (Wang et al., INFOCOM 2019, section IV) runs the agreed protocol and
reads what each client sends on the way. Here that is an aggregation factory around any
other: its result is an `Observed`, the inner aggregate and the clients' rows.

Where the client's id comes from: an aggregation sees updates and weights only, in an
order that TFF does not define, so clients say who they are, as a connection would in a
deployment. `identify_clients` wraps any client work: its clients get `ClientData`, a
dataset and an id, and the id goes with the update's *weight*, an `Identified`. The
update itself stays what it was, so that factories which change updates on the clients
(clipping, zeroing) pass between client work and observation as between any others.

    client work          update          weight        identify_clients
        |                  |               |
    clients' defences      |  (changed)    |           e.g. clipping_factory(1.0, ...)
        |                  |               |
    observing_factory    aggregate = inner(updates, weights), rows = what arrives here
        |
    finalizer            an attack's, or `aggregate_only` of an honest one

The rows are what reaches the factory: put it *inside* whatever clients do to their
updates, `clipping_factory(1.0, observing_factory(MeanFactory()))`. Around it, it would
show the server what clients never send. Noise that the client work itself adds (local
differential privacy) is in the rows; noise that a server adds is not.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.errors import InputError
from tff_leak.runtime import gathering

Factory = TypeVar("Factory", bound=tff.aggregators.AggregationFactory)


class ClientData(NamedTuple):
    """What an identified client brings to a round.

    `client_data` makes it.

    Attributes:
      examples: its dataset.
      client_id: a dataset of one int32: who it is.
    """

    examples: Any
    client_id: Any


class Identified(NamedTuple):
    """A client's weight (or, without weights, its update) with its sender.

    Attributes:
      client_id: int32.
      content: the weight or the update.
    """

    client_id: Any
    content: Any


class Rows(NamedTuple):
    """Every client's upload of one round, in ascending order of ids.

    Attributes:
      client_id: int32 `[n]`.
      value: the updates, each tensor `[n, ...]`.
      weight: the weights, each tensor `[n, ...]`; empty without weights.
    """

    client_id: Any
    value: Any
    weight: Any


class Observed(NamedTuple):
    """The result of an observing aggregation.

    Attributes:
      aggregate: what the inner aggregation gives.
      rows: `Rows`.
    """

    aggregate: Any
    rows: Any


def observing_factory(inner: Factory) -> Factory:
    """Wraps an aggregation factory so that its result carries every client's row.

    Type signature of `next` of the process created for a value V and a weight W around
    an inner aggregation with state S, result A and measurements M:

        (<S@SERVER, {V}@CLIENTS, {<client_id=int32, content=W>}@CLIENTS>
         -> <state=S@SERVER,
             result=<aggregate=A, rows=<client_id=int32[?], value=V[?],
                                        weight=W[?]>>@SERVER,
             measurements=M@SERVER>)

    With an unweighted factory there is no third argument, the second is
    `{<client_id=int32, content=V>}@CLIENTS` and the rows' weight is empty. In a
    learning process, which always has weights, write
    `observing_factory(tff.aggregators.as_weighted_aggregator(inner))`.

    State and measurements are the inner ones: no row gets into a metrics file.

    Memory: n clients with P numbers in value and weight hold n P entries at the server
    while they arrive, and in the in-process runtime at most twice as much when they
    are stacked (see `runtime.gathering`); 100 clients with 400,000 float32 hold 160 MB.
    As much again is taken if the ids do not ascend in the order of the clients, as
    rows are then sorted; in other runtimes it is four times as much for a moment.

    Args:
      inner: a weighted or unweighted factory whose values have static shapes.

    Returns:
      A factory of the same kind.

    Raises:
      InputError: if `inner` is not a factory, or aggregates securely (said here for
        TFF's secure factories, and for all others, in whatever they are wrapped, when
        the process is created); there also if values or weights carry no client id or
        have tensors of unknown shape.
    """
    secure = (tff.aggregators.SecureSumFactory, tff.aggregators.SecureModularSumFactory)
    if isinstance(inner, secure):
        raise _refusal(type(inner).__name__)
    if isinstance(inner, tff.aggregators.WeightedAggregationFactory):
        return _WeightedObserving(inner)
    if isinstance(inner, tff.aggregators.UnweightedAggregationFactory):
        return _UnweightedObserving(inner)
    raise InputError(
        f"inner is {inner!r}: expected an aggregation factory; "
        "give one of tff.aggregators, such as MeanFactory()"
    )


def client_data(examples: tf.data.Dataset, client_id: int) -> ClientData:
    """Returns a dataset with its holder's id, for a process with identified clients.

    A learning process takes datasets only, hence an id as a dataset of one element. A
    plain list `[client_id]` does as well, but costs twice the time.
    """
    options = tf.data.Options()
    # Rewriting a dataset of one number costs more than reading it.
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    one = tf.data.Dataset.from_tensors(np.int32(client_id))
    return ClientData(examples, one.with_options(options))


def identify_clients(
    client_work: tff.learning.templates.ClientWorkProcess,
) -> tff.learning.templates.ClientWorkProcess:
    """Lets clients say who they are, for an observing aggregation.

    Type signature of `next`, from one with weights W, datasets D*, updates U and
    update weights w:

        (<S@SERVER, {W}@CLIENTS, {<examples=D*, client_id=int32*>}@CLIENTS>
         -> <state=S@SERVER,
             result={<update=U,
                      update_weight=<client_id=int32, content=w>>}@CLIENTS,
             measurements@SERVER>)

    Args:
      client_work: any; what it computes does not change. One whose datasets are
        `ClientData` already, because its clients draw noise, gets them whole.

    Returns:
      The client work whose datasets are `ClientData`. A client with no id or several
      makes the round fail.
    """
    state, weights, data = client_work.next.type_signature.parameter
    known = (
        isinstance(data.member, tff.types.StructWithPythonType)
        and data.member.python_container is ClientData
    )
    data_type = data.member
    if not known:
        data_type = tff.types.to_type(
            ClientData(examples=data.member, client_id=tff.SequenceType(np.int32))
        )

    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def only_id(ids):
        return ids.get_single_element()

    @tff.federated_computation(
        state, weights, tff.FederatedType(data_type, tff.CLIENTS)
    )
    def next_round(state, weights, data):
        output = client_work.next(state, weights, data if known else data.examples)
        identified = Identified(
            client_id=tff.federated_map(only_id, data.client_id),
            content=output.result.update_weight,
        )
        result = tff.learning.templates.ClientResult(output.result.update, identified)
        return tff.templates.MeasuredProcessOutput(
            output.state, tff.federated_zip(result), output.measurements
        )

    return tff.learning.templates.ClientWorkProcess(
        client_work.initialize,
        next_round,
        get_hparams_fn=client_work.get_hparams,
        set_hparams_fn=client_work.set_hparams,
    )


def aggregate_only(
    finalizer: tff.learning.templates.FinalizerProcess, observed_type: tff.Type
) -> tff.learning.templates.FinalizerProcess:
    """Lets an honest finalizer follow an observing aggregation.

    Args:
      finalizer: takes the plain aggregate.
      observed_type: the type of the observing aggregation's result, an `Observed`.

    Returns:
      The same finalizer, taking an `Observed` and passing on its `aggregate`.

    Raises:
      InputError: if `observed_type` is not that of an `Observed`, or the finalizer
        does not take its aggregate.
    """
    state, weights, update = finalizer.next.type_signature.parameter
    if not is_observed(observed_type):
        raise InputError(
            f"observed_type is {_short(observed_type)}: expected an Observed; give the "
            "type of the result of an observing aggregation"
        )
    if not update.member.is_assignable_from(observed_type.aggregate):
        raise InputError(
            f"the observed aggregate is {_short(observed_type.aggregate)}: expected "
            f"{_short(update.member)}; build the finalizer for the aggregate's type"
        )

    @tff.federated_computation(
        state, weights, tff.FederatedType(observed_type, tff.SERVER)
    )
    def next_round(state, weights, observed):
        return finalizer.next(state, weights, observed.aggregate)

    return tff.learning.templates.FinalizerProcess(
        finalizer.initialize,
        next_round,
        get_hparams_fn=finalizer.get_hparams,
        set_hparams_fn=finalizer.set_hparams,
    )


def is_observed(result_type: tff.Type) -> bool:
    """Returns whether a type is that of an `Observed`."""
    return (
        isinstance(result_type, tff.types.StructWithPythonType)
        and result_type.python_container is Observed
    )


class _WeightedObserving(tff.aggregators.WeightedAggregationFactory):
    """See `observing_factory`; the id comes with the weight."""

    def __init__(self, inner):
        self._inner = inner

    def create(self, value_type, weight_type):
        content_type = _content_type(weight_type, "weight")
        collect = _build_collect(value_type, content_type)
        process = self._inner.create(value_type, content_type)
        _refuse_secure(process, self._inner)

        @tff.federated_computation(
            process.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_round(state, value, weight):
            output = process.next(state, value, weight.content)
            rows = Rows(weight.client_id, value, weight.content)
            return _observed(output, collect(tff.federated_zip(rows)))

        return tff.templates.AggregationProcess(process.initialize, next_round)


class _UnweightedObserving(tff.aggregators.UnweightedAggregationFactory):
    """See `observing_factory`; the id comes with the value."""

    def __init__(self, inner):
        self._inner = inner

    def create(self, value_type):
        content_type = _content_type(value_type, "value")
        collect = _build_collect(content_type, tff.types.to_type(()))
        process = self._inner.create(content_type)
        _refuse_secure(process, self._inner)

        @tff.federated_computation(
            process.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
        )
        def next_round(state, value):
            output = process.next(state, value.content)
            nothing = tff.federated_value((), tff.CLIENTS)
            rows = Rows(value.client_id, value.content, nothing)
            return _observed(output, collect(tff.federated_zip(rows)))

        return tff.templates.AggregationProcess(process.initialize, next_round)


def _observed(output, rows):
    result = tff.federated_zip(Observed(output.result, rows))
    return tff.templates.MeasuredProcessOutput(
        output.state, result, output.measurements
    )


def _content_type(identified: tff.Type, what: str) -> tff.Type:
    """The type of an `Identified`'s content."""
    if (
        not isinstance(identified, tff.types.StructWithPythonType)
        or identified.python_container is not Identified
        or identified.client_id != tff.TensorType(np.int32)
    ):
        raise InputError(
            f"the {what} to observe is {_short(identified)}: expected "
            f"<client_id=int32,content=...>; wrap the client work in identify_clients, "
            "and an unweighted factory in tff.aggregators.as_weighted_aggregator"
        )
    return identified.content


def _refuse_secure(process: tff.templates.AggregationProcess, inner: Any) -> None:
    """Refuses an inner aggregation that hides any part of what clients send."""
    try:
        tff.test.assert_not_contains_secure_aggregation(process.next)
    except AssertionError:
        raise _refusal(f"what {type(inner).__name__} creates") from None


def _refusal(what: str) -> InputError:
    return InputError(
        f"the aggregation to observe is secure ({what}): expected one in the clear, "
        "since under secure aggregation the server sees sums and no client's row; "
        "attack the sum, or leave secure aggregation out of the threat model"
    )


def _short(type_spec: tff.Type) -> str:
    text = type_spec.compact_representation()
    return text if len(text) <= 80 else text[:77] + "..."


def _build_collect(value_type: tff.Type, weight_type: tff.Type):
    """Builds the federated aggregation that turns clients' `Rows` into all `Rows`."""
    row_type = tff.types.to_type(
        Rows(tff.TensorType(np.int32), value_type, weight_type)
    )

    @tff.tensorflow.computation(gathering.gathered_type(row_type))
    @tf.function
    def by_id(rows):
        order = tf.argsort(rows.client_id, stable=True)
        return tf.cond(
            tf.reduce_all(rows.client_id[1:] >= rows.client_id[:-1]),
            lambda: rows,  # No copy of rows that stand as they should.
            lambda: tf.nest.map_structure(lambda t: tf.gather(t, order), rows),
        )

    def collect(rows):
        return tff.federated_map(by_id, gathering.federated_gather(rows))

    return collect
