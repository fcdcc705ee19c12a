"""User-level differential privacy at the server: clipped updates, noise on their sum.

McMahan et al., "Learning Differentially Private Recurrent Language Models" (ICLR 2018),
by TFF's `DifferentiallyPrivateFactory` and tensorflow-privacy's queries, as an
aggregation factory for `computations.fed_avg.build_fed_avg` or any process of TFF:

    each client   u <- u * min(1, C / |u|)
    server        (sum of u + N(0, (z C)^2 I)) / clients_per_round

`Mechanism` says where C and the noise come from: `FIXED`; `ADAPTIVE`, where C follows
a quantile of the clients' norms (Andrew et al., "Differentially Private Learning with
Adaptive Clipping", NeurIPS 2021, algorithm 1); `TREE`, where the noise of rounds is
correlated so that that of their sum grows with the logarithm of their number (DP-FTRL,
Kairouz et al., "Practical and Private (Deep) Learning without Sampling or Shuffling",
ICML 2021, with Honaker's estimates).

**What is guaranteed.** Neighbouring: a client's update is there or not, whatever else
the cohort holds; the denominator is fixed and public. For `FIXED` and `ADAPTIVE` that
is one client more or less (`ADD_OR_REMOVE_ONE`), and a round is a Gaussian mechanism
(for `ADAPTIVE` two, of update and clipped count, together as one of multiplier z). For
`TREE` a client is replaced by one that sends 0 (`REPLACE_SPECIAL`), and all rounds are
one mechanism: `event` counts how often a client stands under each node. What is drawn
from a larger population is charged in full: a cohort of fixed size is not a Poisson
sample. If yours is one, wrap a round in `dp_accounting.PoissonSampledDpEvent`.

**What is not.** The *server* adds the noise: it sees every client's clipped update
before, and an attack of the server sees it, too. Who trusts it less puts a secure sum
inside (`record_aggregator`), or has clients add noise (`local_dp`). Clients' counts
behind metrics, and their weights, are not private; all clients count alike. Noise in
32-bit floating point has gaps (Mironov, CCS 2012).

**Seeds.** The queries of tensorflow-privacy for `FIXED` and `ADAPTIVE` draw from an
unseeded generator, so that a resumed run would not repeat itself. They are used here
with noise of scale 0, and `_Seeded` adds the noise, stateless, to the sums that they
get, which is where they would add theirs; the events are the library's own kinds. The
tree query takes a seed. Whoever knows the run's seed can subtract the noise: this is a
simulation.
"""

import dataclasses
import enum
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
import tensorflow_privacy as tfp
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    NonPrivateDpEvent,
    NoOpDpEvent,
    SingleEpochTreeAggregationDpEvent,
)

from tff_leak.defences.accounting import check_delta, check_noise, repeated
from tff_leak.errors import InputError
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role, derive


class Mechanism(enum.Enum):
    """Where the clipping bound and the noise come from; see the docstring above."""

    FIXED = "fixed"
    ADAPTIVE = "adaptive"
    TREE = "tree"


@dataclasses.dataclass(frozen=True)
class UserLevelDp:
    """What the server and its clients agree on.

    Attributes:
      clip: C > 0, bound on the l2 norm of an update; for `ADAPTIVE` the first one.
      noise_multiplier: z >= 0, the noise's standard deviation over C. 0 is not
        private.
      clients_per_round: the denominator, a constant; the cohort's size.
      mechanism: fixed or adaptive clipping, or tree aggregation.
      least_clients: smaller cohorts are refused, since the noise of a useful guarantee
        then drowns the mean: its norm is z C sqrt(P) / clients_per_round.
      quantile: for `ADAPTIVE`, the share of clients that should not be clipped.
      clip_learning_rate: for `ADAPTIVE`, C changes by at most this power of e a round.
      delta: at which epsilon is stated; below one over the number of clients.
    """

    clip: float
    noise_multiplier: float
    clients_per_round: int
    mechanism: Mechanism = Mechanism.FIXED
    least_clients: int = 40
    quantile: float = 0.5
    clip_learning_rate: float = 0.2
    delta: float = 1e-5

    def __post_init__(self):
        check_noise(self.clip, self.noise_multiplier)
        check_delta(self.delta)
        if self.clients_per_round < max(self.least_clients, 1):
            raise InputError(
                f"clients_per_round is {self.clients_per_round}: expected at least "
                f"{max(self.least_clients, 1)}, below which noise drowns the mean; "
                "take more clients, or lower least_clients"
            )
        if not 0 <= self.quantile <= 1:
            raise InputError(
                f"quantile is {self.quantile}: expected it in [0, 1]; 0.5 clips to the "
                "median"
            )
        if not self.clip_learning_rate >= 0:
            raise InputError(
                f"clip_learning_rate is {self.clip_learning_rate}: expected 0 or more; "
                "0.2 is usual"
            )
        if self.mechanism is Mechanism.ADAPTIVE and (
            self.noise_multiplier >= 2 * self.count_deviation > 0
        ):
            raise InputError(
                f"noise_multiplier is {self.noise_multiplier}: expected less than "
                f"{2 * self.count_deviation} for adaptive clipping with "
                f"{self.clients_per_round} clients, whose noisy count alone costs as "
                "much; take more clients, or fixed clipping"
            )

    @property
    def neighbours(self) -> NeighboringRelation:
        """Which federations the guarantee makes alike."""
        if self.mechanism is Mechanism.TREE:
            return NeighboringRelation.REPLACE_SPECIAL
        return NeighboringRelation.ADD_OR_REMOVE_ONE

    @property
    def count_deviation(self) -> float:
        """Of the noise on the count of clipped clients (Andrew et al., section 3.1)."""
        return self.clients_per_round / 20

    @property
    def update_multiplier(self) -> float:
        """Of the noise on updates: above z where the count costs something, too."""
        if self.mechanism is not Mechanism.ADAPTIVE or not self.noise_multiplier:
            return self.noise_multiplier
        count = (2 * self.count_deviation) ** -2
        return (self.noise_multiplier**-2 - count) ** -0.5


def event(settings: UserLevelDp, rounds: int, *, once: bool = False) -> DpEvent:
    """Returns what the first `rounds` rounds do to a client.

    Args:
      settings: the agreement; `settings.neighbours` is the relation of the event.
      rounds: 0 or more.
      once: whether nobody takes part in more than one round; if not, a client may be
        in every one of them.
    """
    if not rounds:
        return NoOpDpEvent()
    if not settings.noise_multiplier:
        return NonPrivateDpEvent()
    if settings.mechanism is not Mechanism.TREE:
        return repeated(_round_event(settings), 1 if once else rounds)
    if once:
        return SingleEpochTreeAggregationDpEvent(settings.noise_multiplier, rounds)
    # One vector of all nodes: a client in every round stands 2^h times under a node of
    # height h, and changes it by 2^h C; floor(rounds / 2^h) of them are complete.
    squared = sum(
        (rounds >> height) * 4**height for height in range(rounds.bit_length())
    )
    return GaussianDpEvent(settings.noise_multiplier / squared**0.5)


def check_secure_bound(settings: UserLevelDp, bound: float) -> None:
    """Raises InputError if a secure sum may clip what this mechanism has clipped.

    Args:
      settings: the agreement, whose clip bounds an update's norm.
      bound: the secure sum's, of each number (`secure_aggregation.py`).
    """
    if settings.mechanism is Mechanism.ADAPTIVE:
        raise InputError(
            "user_dp is adaptive beside secure_aggregation: expected fixed or tree, "
            "since an adaptive bound may grow beyond the range of the secure sum; "
            "choose one of them"
        )
    if bound < settings.clip:
        raise InputError(
            f"bound is {bound} in secure_aggregation and clip {settings.clip} in "
            "user_dp: expected a bound of at least the clip, below which updates would "
            "be changed once more; raise it"
        )


def build_user_level_factory(
    settings: UserLevelDp,
    *,
    seed: int = 0,
    record_aggregator: tff.aggregators.UnweightedAggregationFactory | None = None,
    value_type: tff.Type | None = None,
) -> tff.aggregators.UnweightedAggregationFactory:
    """Builds the aggregation.

    Type signature of `next` for a value V, with the query's state Q:

        (<Q@SERVER, {V}@CLIENTS>
         -> <state=Q@SERVER, result=V@SERVER,
             measurements=<dp_query_metrics, dp>@SERVER>)

    The result is the noisy sum over `clients_per_round`, however many came. In
    federated averaging every client counts alike, whatever its number of examples. A
    value whose norm is not finite counts as 0: no factor would bring it to C.

    Args:
      settings: the agreement.
      seed: the run's.
      record_aggregator: sums the clipped updates; None sums in the clear. A secure sum
        must not clip them once more below C, nor add to what one client can change.
      value_type: V, needed for `TREE`.

    Raises:
      InputError: if `value_type` is missing for `TREE`, or `record_aggregator` given.
    """
    if settings.mechanism is Mechanism.TREE:
        tree = _build_tree(settings, seed, record_aggregator, value_type)
        return _FiniteFactory(tree)
    clip = settings.clip
    if settings.mechanism is Mechanism.FIXED:
        silent = tfp.GaussianSumQuery(clip, 0.0)
    else:
        silent = tfp.QuantileAdaptiveClipSumQuery(
            initial_l2_norm_clip=clip,
            noise_multiplier=0.0,
            target_unclipped_quantile=settings.quantile,
            learning_rate=settings.clip_learning_rate,
            clipped_count_stddev=0.0,
            expected_num_records=float(settings.clients_per_round),
            geometric_update=True,
        )
    query = tfp.NormalizedQuery(
        _Seeded(silent, settings, seed), float(settings.clients_per_round)
    )
    return _FiniteFactory(
        tff.aggregators.DifferentiallyPrivateFactory(query, record_aggregator)
    )


class _FiniteFactory(tff.aggregators.UnweightedAggregationFactory):
    """Another factory's aggregation, of 0 for clients whose values are not finite.

    Not TFF's `zeroing_factory`: it puts a state around the query's, in which callers
    look for the event, and by default counts such clients in the clear.
    """

    def __init__(self, inner: tff.aggregators.UnweightedAggregationFactory):
        self._inner = inner

    def create(self, value_type: tff.Type) -> tff.templates.AggregationProcess:
        process = self._inner.create(value_type)

        @tff.tensorflow.computation(value_type)
        def finite_or_zero(value):
            finite = tf.math.is_finite(tf.linalg.global_norm(tf.nest.flatten(value)))
            return tf.nest.map_structure(
                lambda tensor: tf.where(finite, tensor, tf.zeros_like(tensor)), value
            )

        @tff.federated_computation(
            process.initialize.type_signature.result,
            tff.FederatedType(value_type, tff.CLIENTS),
        )
        def next_fn(state, value):
            return process.next(state, tff.federated_map(finite_or_zero, value))

        return tff.templates.AggregationProcess(process.initialize, next_fn)


class _SeededState(NamedTuple):
    """A silent query's state, and what its noise derives from."""

    silent: Any
    seed: Any  # int32 [2]
    round: Any  # int32


class _Seeded(tfp.SumAggregationDPQuery):
    """A sum query without noise of its own, with stateless noise on its sums."""

    def __init__(self, silent: tfp.DPQuery, settings: UserLevelDp, seed: int):
        self._silent = silent
        self._settings = settings
        self._root = derive(seeding.root(seed), Role.USER_NOISE).numpy()

    def initial_global_state(self):
        return _SeededState(
            self._silent.initial_global_state(),
            tf.constant(self._root, tf.int32),
            tf.constant(0, tf.int32),
        )

    def derive_sample_params(self, global_state):
        return self._silent.derive_sample_params(global_state.silent)

    def initial_sample_state(self, template):
        return self._silent.initial_sample_state(template)

    def preprocess_record(self, params, record):
        return self._silent.preprocess_record(params, record)

    def get_noised_result(self, sample_state, global_state):
        silent, settings = global_state.silent, self._settings
        stream = derive(global_state.seed, global_state.round)
        if settings.mechanism is Mechanism.FIXED:
            deviation = settings.clip * settings.noise_multiplier
            noisy = _with_noise(sample_state, deviation, stream)
        else:
            count = settings.count_deviation if settings.noise_multiplier else 0.0
            clip = silent.sum_state.l2_norm_clip
            noisy = sample_state._replace(
                sum_state=_with_noise(
                    sample_state.sum_state,
                    clip * settings.update_multiplier,
                    derive(stream, 0),
                ),
                quantile_estimator_state=_with_noise(
                    sample_state.quantile_estimator_state, count, derive(stream, 1)
                ),
            )
        result, silent, _ = self._silent.get_noised_result(noisy, silent)
        state = _SeededState(silent, global_state.seed, global_state.round + 1)
        return result, state, _round_event(settings)

    def derive_metrics(self, global_state):
        return self._silent.derive_metrics(global_state.silent)


def _round_event(settings: UserLevelDp) -> DpEvent:
    updates = GaussianDpEvent(settings.update_multiplier)
    if settings.mechanism is Mechanism.FIXED or not settings.noise_multiplier:
        return updates
    # A client moves the count by 1/2: it is counted as one half or minus one half.
    return ComposedDpEvent([updates, GaussianDpEvent(2 * settings.count_deviation)])


def _with_noise(structure: Any, deviation: Any, stream: tf.Tensor) -> Any:
    """Adds normal noise of one standard deviation to every number of a structure."""
    tensors = tf.nest.flatten(structure)
    return tf.nest.pack_sequence_as(
        structure,
        [
            tensor
            + tf.random.stateless_normal(
                tf.shape(tensor), derive(stream, number), 0.0, deviation
            )
            for number, tensor in enumerate(tensors)
        ],
    )


def _build_tree(
    settings: UserLevelDp,
    seed: int,
    record_aggregator: tff.aggregators.UnweightedAggregationFactory | None,
    value_type: tff.Type | None,
) -> tff.aggregators.UnweightedAggregationFactory:
    if value_type is None:
        raise InputError(
            "value_type is None for tree aggregation: expected the type of an update, "
            "for which noise is kept; give it"
        )
    specs = tff.types.structure_from_tensor_type_tree(
        lambda t: tf.TensorSpec(t.shape, t.dtype), value_type
    )
    return tff.aggregators.DifferentiallyPrivateFactory.tree_aggregation(
        noise_multiplier=float(settings.noise_multiplier),
        clients_per_round=float(settings.clients_per_round),
        l2_norm_clip=float(settings.clip),
        record_specs=specs,
        noise_seed=_tree_seed(seed),
        record_aggregation_factory=record_aggregator,
    )


def _tree_seed(seed: int) -> int:
    stream = derive(seeding.root(seed), Role.USER_NOISE)
    return int(np.abs(np.int64(stream.numpy()[0])))
