"""Secure aggregation: the server learns a sum of updates, and no client's own.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning"
(CCS 2017), by TFF's secure sum factories: clients bound their numbers, turn them into
integers, and mask them so that masks cancel in the sum alone.

    client   u <- clip(u, -B, B), w <- clip(w, 0, W)       (every number by itself)
             quantise u w in [-B W, B W] and w in [0, W] to 32 bits, mask
    server   sum of u w, sum of w                           (nothing else)
             mean = sum of u w / sum of w

**What is simulated.** The masks. No cryptography runs in a simulation: TFF replaces
its secure intrinsics by plain sums of the same integers, in the in-process runtime as
in `tff.backends.test`. Ranges, quantisation and what *reaches the server's part of the
computation* are real: its type has a sum in it, and no rows. Clients that drop out, key
exchange and collusion are not simulated.

**What it does not hide.** The sum: with a cohort of one it is that client's update, and
of two cohorts that differ in one client the difference is. Nothing here stops a server
that chooses cohorts so; a deployment needs a least cohort size, and participants of
DSSGD in turns are cohorts of one. It gives no differential privacy.

**Precision.** Quantisation has steps of 2 B W / (2^32 - 1); 32-bit floating point on
the way to it is coarser and rounds to about 2^-24 B W. So a B far above the updates'
size costs precision; one below it changes them (which the factories' measurements
count, securely summed, too).
"""

import dataclasses
import logging

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.errors import InputError

# What TensorFlow tells TFF's authors about checks in their factories: each is an
# operation of a function, which runs it all the same.
logging.getLogger("tensorflow").addFilter(
    lambda record: (
        not (
            "Object was never used" in record.getMessage()
            and "assert_less_equal" in record.getMessage()
        )
    )
)


GREATEST_LOSS = 100.0
"""Above the mean loss (nats) of any model that has not diverged: for the range of the
counts behind metrics."""
_GREATEST_BOUND = 1e30  # Times a weight it has to be finite in 32-bit floating point.


@dataclasses.dataclass(frozen=True)
class SecureAggregation:
    """What clients agree on.

    Attributes:
      bound: B > 0; every number of an update is clipped to [-B, B].
    """

    bound: float

    def __post_init__(self):
        _check_positive("bound", self.bound)


def secure_sum_factory(bound: float) -> tff.aggregators.UnweightedAggregationFactory:
    """Returns a factory that sums securely, e.g. as `build_dssgd`'s upload aggregator.

    Args:
      bound: B > 0; every number is clipped to [-B, B].
    """
    _check_positive("bound", bound)
    return tff.aggregators.SecureSumFactory(float(bound))


def secure_mean_factory(
    bound: float, *, greatest_weight: float
) -> tff.aggregators.WeightedAggregationFactory:
    """Returns a factory for the weighted mean, of two secure sums.

    Type signature of `next` for a value V and a float32 weight:

        (<S@SERVER, {V}@CLIENTS, {float32}@CLIENTS>
         -> <state=S@SERVER, result=V@SERVER, measurements@SERVER>)

    The server's part divides the sums; it is not handed anything else.

    Args:
      bound: B > 0; every number of an update is clipped to [-B, B].
      greatest_weight: W > 0; weights are clipped to [0, W], in numerator and
        denominator alike. In federated averaging a weight is a client's examples times
        epochs.
    """
    _check_positive("bound", bound)
    _check_positive("greatest_weight", greatest_weight)
    mean = tff.aggregators.MeanFactory(
        tff.aggregators.SecureSumFactory(float(bound * greatest_weight)),
        tff.aggregators.SecureSumFactory(float(greatest_weight), 0.0),
        no_nan_division=True,
    )
    return _Bounded(mean, float(bound), float(greatest_weight))


def secure_counts_factory(
    greatest: float,
) -> tff.aggregators.UnweightedAggregationFactory:
    """Returns a secure sum for the counts behind a client work's metrics.

    Without it they are summed in the clear beside a secure mean, and the process is
    refused by `check_secure`.

    Args:
      greatest: above every client's examples and sum of losses (nats).
    """
    _check_positive("greatest", greatest)
    return tff.aggregators.SecureSumFactory(float(greatest), 0.0)


def check_secure(computation: tff.Computation) -> None:
    """Raises InputError if a computation shows the server anything but secure sums.

    Args:
      computation: e.g. a process's `next`.
    """
    try:
        tff.test.assert_not_contains_unsecure_aggregation(computation)
        tff.test.assert_contains_secure_aggregation(computation)
    except AssertionError as error:
        found = str(error).splitlines()[0].rstrip(":.")
        raise InputError(
            f"the process does not aggregate securely ({_short(found)}): expected "
            "secure sums alone, of updates, weights and counts for metrics; give it "
            "the factories of secure_aggregation for all of them"
        ) from None


class _Bounded(tff.aggregators.WeightedAggregationFactory):
    """Clients clip values and weights before the inner aggregation gets them."""

    def __init__(self, inner, bound: float, greatest_weight: float):
        self._inner = inner
        self._bound = bound
        self._greatest_weight = greatest_weight

    def create(self, value_type, weight_type):
        process = self._inner.create(value_type, weight_type)
        bound, greatest_weight = self._bound, self._greatest_weight

        @tff.tensorflow.computation(value_type)
        def bounded(value):
            return tf.nest.map_structure(
                lambda tensor: tf.clip_by_value(tensor, -bound, bound), value
            )

        @tff.tensorflow.computation(weight_type)
        def bounded_weight(weight):
            return tf.clip_by_value(weight, 0.0, greatest_weight)

        @tff.federated_computation(
            process.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_round(state, value, weight):
            return process.next(
                state,
                tff.federated_map(bounded, value),
                tff.federated_map(bounded_weight, weight),
            )

        return tff.templates.AggregationProcess(process.initialize, next_round)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value <= _GREATEST_BOUND:
        raise InputError(
            f"{name} is {value}: expected a number above 0 and at most "
            f"{_GREATEST_BOUND:g}, since a secure sum needs a range; give the largest "
            "that is usual"
        )


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
