"""Federated averaging and SGD under defences: what each of them replaces.

    clients   train: SGD, or DP-SGD by record (`record_level_dp`)
              noise their updates                (`local_dp`)
    between   clip, sum, noise the sum           (`user_level_dp`)
              sum securely                       (`secure_aggregation`)

`Defences` is the choice. `build_defended_client_work` and `build_defended_aggregator`
are parts of a process: `build_fed_avg` takes them as they are, and so do the servers
that look (`computations.watched_fed_avg`) and attack (`computations.malicious_server`).

FedSGD with DP-SGD is one private step of rate 1 on all of a client's examples: the
noisy mean of its clipped gradients.
"""

import dataclasses
import enum

import tensorflow_federated as tff

from computations.fed_avg import build_fed_avg_client_work, build_fed_sgd_client_work
from tff_leak.attacks.observation import observing_factory
from tff_leak.defences.local_dp import LocalDp, noise_updates
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import (
    GREATEST_LOSS,
    SecureAggregation,
    secure_counts_factory,
    secure_mean_factory,
    secure_sum_factory,
)
from tff_leak.defences.user_level_dp import (
    Mechanism,
    UserLevelDp,
    build_user_level_factory,
    check_secure_bound,
)
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.network import Network
from tff_leak.threat import View


class Algorithm(enum.Enum):
    """What clients send: a gradient at the shared model, or what training changed."""

    FED_SGD = "fed_sgd"
    FED_AVG = "fed_avg"


@dataclasses.dataclass(frozen=True)
class Defences:
    """What protects the clients; None: not used.

    Attributes:
      record_dp: of their training; its batches are their datasets' own.
      local_dp: of what they send.
      user_dp: at the server; `clients_per_round` is the size of the cohort.
      secure_aggregation: of updates, weights and counts.

    Raises:
      InputError: if several mechanisms of differential privacy are given, or the
        range of the secure sum and the clipping of `user_dp` contradict each other.
    """

    record_dp: RecordLevelDp | None = None
    local_dp: LocalDp | None = None
    user_dp: UserLevelDp | None = None
    secure_aggregation: SecureAggregation | None = None

    def __post_init__(self):
        names = ("record_dp", "local_dp", "user_dp")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(
                f"{' and '.join(given)} are given together: expected one mechanism of "
                "differential privacy, since their epsilons protect different things "
                "and do not add up; leave the others out"
            )
        if self.user_dp is not None and self.secure_aggregation is not None:
            check_secure_bound(self.user_dp, self.secure_aggregation.bound)

    @property
    def view(self) -> View:
        """What of the clients' updates reaches the server."""
        if self.secure_aggregation is not None:
            return View.SUM
        return View.NOISED_ROWS if self.draws_client_noise else View.ROWS

    @property
    def draws_client_noise(self) -> bool:
        """Whether clients draw noise, for which they need their ids."""
        return self.record_dp is not None or self.local_dp is not None


def own_training(algorithm: Algorithm, training: BatchSgd) -> BatchSgd:
    """Returns the client's part of the training: of FedSGD one step of rate 1."""
    return training if algorithm is Algorithm.FED_AVG else BatchSgd(learning_rate=1.0)


def build_defended_client_work(
    network: Network,
    *,
    training: BatchSgd,
    defences: Defences,
    algorithm: Algorithm = Algorithm.FED_AVG,
    greatest_examples: int | None = None,
    seed: int = 0,
) -> tff.learning.templates.ClientWorkProcess:
    """Builds what clients do under defences.

    Its type signature is that of `build_fed_avg_client_work`; where clients draw noise
    (`Defences.draws_client_noise`) datasets are `ClientData`.

    Args:
      network: the classifier that is learnt.
      training: of the clients; with FED_SGD see `own_training`.
      defences: of the clients; `user_dp` changes nothing here.
      algorithm: what clients send.
      greatest_examples: of a client, for the range of secure sums; needed with
        `secure_aggregation` alone.
      seed: of the noise.

    Raises:
      InputError: as `build_fed_avg_client_work`; if `greatest_examples` is needed.
    """
    own = own_training(algorithm, training)
    counts = None
    if defences.secure_aggregation is not None:
        if greatest_examples is None:
            raise InputError(
                "greatest_examples is None with secure_aggregation: expected the most "
                "that a client has, for the range of secure sums; give it"
            )
        counts = secure_counts_factory(GREATEST_LOSS * greatest_examples * own.epochs)
    if algorithm is Algorithm.FED_SGD and defences.record_dp is None:
        work = build_fed_sgd_client_work(network, metrics_aggregator=counts)
    else:
        work = build_fed_avg_client_work(
            network,
            training=own,
            privacy=defences.record_dp,
            metrics_aggregator=counts,
            seed=seed,
        )
    if defences.local_dp is not None:
        work = noise_updates(defences.local_dp, work, seed=seed)
    return work


def build_defended_aggregator(
    defences: Defences,
    update_type: tff.Type,
    *,
    greatest_weight: int,
    observing: bool,
    seed: int = 0,
) -> tff.aggregators.WeightedAggregationFactory:
    """Builds how updates are joined under defences.

    Args:
      defences: of the clients; what they do themselves changes nothing here.
      update_type: of one client's update.
      greatest_weight: of a client, for the range of a secure sum.
      observing: whether the server keeps the rows
        (`attacks.observation.observing_factory`); not with a secure sum.
      seed: of the noise.
    """
    user, secure = defences.user_dp, defences.secure_aggregation
    if user is not None:
        inner = None if secure is None else secure_sum_factory(secure.bound)
        factory = tff.aggregators.as_weighted_aggregator(
            build_user_level_factory(
                user, seed=seed, record_aggregator=inner, value_type=update_type
            )
        )
    elif secure is not None:
        factory = secure_mean_factory(
            secure.bound, greatest_weight=float(greatest_weight)
        )
    else:
        factory = tff.aggregators.MeanFactory()
    if not observing:
        return factory
    factory = observing_factory(factory)
    if user is not None and user.mechanism is not Mechanism.ADAPTIVE:
        # Clients clip before they send. (An adaptive bound is known inside only: there
        # rows are kept as they were, longer by a factor than what is sent.)
        factory = tff.aggregators.clipping_factory(float(user.clip), factory)
    return factory
