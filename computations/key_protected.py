"""DSSGD with private class keys ("Key protected classification", 2018, section 4).

The protocol is `computations.dssgd` as it is. What is learnt is an embedding instead
of a classifier, and what a participant trains it towards are keys of its own:

    server                               each client of the cohort
    ------                               -------------------------
    embedding and Adam  --broadcast-->   fetch all of it
                                         adversary: transform the local data
                                         Adam towards the client's own keys (Eq. 5)
    += sum              <--aggregate--   upload all changes
"""

from typing import Any

import numpy as np
import tensorflow_federated as tff

from computations import dssgd
from tff_leak.attacks.client_transform import ClientTransform
from tff_leak.defences.key_protection import KeyTraining, check_keys, key_training
from tff_leak.models.network import Network


def build_key_protected(
    network: Network,
    *,
    training: KeyTraining | None = None,
    transform: ClientTransform | None = None,
    upload_aggregator: tff.aggregators.UnweightedAggregationFactory | None = None,
    element_spec: Any = None,
    seed: int = 0,
) -> tff.templates.IterativeProcess:
    """Builds collaborative learning with private class keys.

    Type signatures, with P the number of parameters, S = 3 P + 1 (Adam's moments and
    steps are shared with them) and d the dimension of the keys:

        initialize: ( -> ServerState@SERVER)
        next: (<server=ServerState@SERVER,
                data={<float32[?,...],int32[?]>*}@CLIENTS,
                clients={ClientState}@CLIENTS>
               -> <ServerState@SERVER, {ClientState}@CLIENTS, metrics@SERVER>)

    Both states are those of `dssgd`, with `parameters=float32[S]`. A participant's
    keys are `ClientState.training`, float32[?,d]: CLIENTS-placed, in and out of `next`
    unchanged. Nothing of the server's state depends on them but through the uploads;
    of the metrics only `loss` does, the cohort's mean of -score in [-1, 1]. Labels are
    rows of the participant's own keys.

    All is shared: theta_u = theta_d = 1, without tau and gamma (section 5.1). Turns
    from a stale model are left out: the paper found them unstable.

    Args:
      network: from `key_embedding`.
      training: settings of the participants' training; None is the defaults.
      transform: what adversaries do with their turns; None: there are none.
      upload_aggregator: how uploads `[S]` are joined; None sums in the clear.
      element_spec: of the clients' datasets, as for `build_dssgd`.
      seed: of the initial model.

    Raises:
      InputError: if the network's outputs are no vectors, or it keeps running
        statistics.
    """
    return dssgd.build_dssgd(
        network,
        training=key_training(training or KeyTraining(), network),
        transform=transform,
        upload_aggregator=upload_aggregator,
        element_spec=element_spec,
        seed=seed,
    )


def initial_client_state(
    network: Network,
    server: dssgd.ServerState,
    *,
    keys: np.ndarray,
    participant: int,
    seed: int,
    transform: ClientTransform | None = None,
    private: Any = None,
) -> dssgd.ClientState:
    """Returns a participant's state before its first turn, as NumPy arrays.

    Args:
      network: the embedding.
      server: the server's initial state.
      keys: float32 `[k, d]` of length 1, private; its labels are their rows. `[0, d]`
        for a participant without data.
      participant: number, 0 or more; with `seed` it fixes the random stream.
      seed: the run's.
      transform: the process's, if it has one.
      private: an adversary's initial state for that transform; None is honest. Its
        `fake_class` is a row of `keys`.

    Raises:
      InputError: if keys have another shape or length.
    """
    check_keys(keys, *network.output_shape)
    return dssgd.initial_client_state(
        network,
        server,
        participant=participant,
        seed=seed,
        transform=transform,
        private=private,
        training_private=keys,
    )
