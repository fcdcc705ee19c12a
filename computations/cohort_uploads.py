"""How the uploads of a cohort that trains all at once become one change of the model.

    sum    parameters += u_1 + ... + u_n         DSSGD (Shokri, Shmatikov, CCS 2015)
    mean   parameters += (u_1 + ... + u_n) / n   federated averaging (McMahan et al.,
                                                 AISTATS 2017) with equal weights

Both as the `upload_aggregator` of `computations.dssgd.build_dssgd`, in the clear, by
secure sums, or with user-level differential privacy at the server (`user_level_dp`),
also with a secure sum inside. n is the cohort's size, which everybody knows.

Under user-level privacy an upload is clipped before it leaves, an adversary's as well:
a server that adds the noise can check the norms that it sees (a secure sum would need
proofs of them, which are not simulated).
"""

import dataclasses
import enum

import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.defences.secure_aggregation import SecureAggregation, secure_sum_factory
from tff_leak.defences.user_level_dp import (
    UserLevelDp,
    build_user_level_factory,
    check_secure_bound,
)


class Joining(enum.Enum):
    """What the uploads of a cohort come to; see the module's docstring."""

    SUM = "sum"
    MEAN = "mean"


@dataclasses.dataclass(frozen=True)
class CohortUploads:
    """How a cohort's uploads are joined, and what protects them on the way.

    Attributes:
      joining: sum or mean.
      user_dp: user-level differential privacy; `clients_per_round` is the cohort's
        size. None: there is none.
      secure_aggregation: the server sees the sum alone. None: it sees the uploads.

    Raises:
      InputError: if the range of the secure sum and the clipping of `user_dp`
        contradict each other.
    """

    joining: Joining = Joining.SUM
    user_dp: UserLevelDp | None = None
    secure_aggregation: SecureAggregation | None = None

    def __post_init__(self):
        if self.user_dp is not None and self.secure_aggregation is not None:
            check_secure_bound(self.user_dp, self.secure_aggregation.bound)

    @property
    def wants_a_cohort(self) -> bool:
        """Whether any of it has a meaning only where all train at once."""
        return self != CohortUploads()


def build_upload_aggregator(
    uploads: CohortUploads, *, participants: int, num_shared: int, seed: int = 0
) -> tff.aggregators.UnweightedAggregationFactory:
    """Builds the aggregation of uploads float32 `[S]`.

    Type signature of `next`, with the state A of what is inside:

        (<A@SERVER, {float32[S]}@CLIENTS>
         -> <state=A@SERVER, result=float32[S]@SERVER, measurements@SERVER>)

    Args:
      uploads: how they are joined.
      participants: n, the size of every cohort.
      num_shared: S.
      seed: of the noise.
    """
    secure = uploads.secure_aggregation
    inner = None if secure is None else secure_sum_factory(secure.bound)
    # What the factory inside makes of a cohort: the sum, or the noisy mean.
    if uploads.user_dp is not None:
        value_type = tff.types.tensorflow_to_type(tf.TensorSpec([num_shared]))
        factory = build_user_level_factory(
            uploads.user_dp, seed=seed, record_aggregator=inner, value_type=value_type
        )
        of_sum = 1.0 / uploads.user_dp.clients_per_round
    else:
        factory = inner or tff.aggregators.SumFactory()
        of_sum = 1.0
    wanted = 1.0 if uploads.joining is Joining.SUM else 1.0 / participants
    return factory if of_sum == wanted else _Scaled(factory, wanted / of_sum)


class _Scaled(tff.aggregators.UnweightedAggregationFactory):
    """Another aggregation, whose result the server multiplies by a constant."""

    def __init__(
        self, inner: tff.aggregators.UnweightedAggregationFactory, factor: float
    ):
        self._inner = inner
        self._factor = factor

    def create(self, value_type):
        process = self._inner.create(value_type)
        factor = self._factor

        @tff.tensorflow.computation(process.next.type_signature.result.result.member)
        def scaled(value):
            return tf.nest.map_structure(lambda tensor: factor * tensor, value)

        @tff.federated_computation(
            process.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
        )
        def next_cohort(state, value):
            output = process.next(state, value)
            return tff.templates.MeasuredProcessOutput(
                output.state,
                tff.federated_map(scaled, output.result),
                output.measurements,
            )

        return tff.templates.AggregationProcess(process.initialize, next_cohort)
