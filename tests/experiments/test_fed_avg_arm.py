"""A federation that averages, as an arm: what its metrics say of a round."""

import asyncio
import math
import types

import numpy as np
import pytest

from experiments.fed_avg_arm import FedAvgArm
from tff_leak.data.sources import Examples


class _Process:
    """Trains nothing and says that so many clients diverged."""

    def __init__(self, non_finite):
        self.non_finite = non_finite

    async def next(self, state, datasets):
        assert len(datasets) == 1
        train = {"loss": 0.25, "non_finite": self.non_finite}
        return state, {"client_work": {"train": train}}


@pytest.mark.parametrize("non_finite", [0, 1])
def test_a_client_that_diverged_is_a_loss_that_is_no_number(non_finite):
    data = [Examples(np.zeros([2, 4, 4, 1], np.float32), np.zeros(2, np.int32))]
    arm = FedAvgArm(
        process=_Process(non_finite),
        data=data,
        batch_size=2,
        seed=0,
        accuracy=lambda weights: 0.5,
        spending=lambda rounds: 3.0 * rounds,
        measure=lambda weights: {"measured": float(len(weights.trainable))},
        note=lambda state: {"noted": 7.0},
    )
    model = types.SimpleNamespace(trainable=[np.zeros(3)])
    state = types.SimpleNamespace(global_model_weights=model)
    _, metrics = asyncio.run(arm.run_round(state, 2))
    loss = metrics.pop("train_loss")
    assert math.isnan(loss) if non_finite else loss == 0.25
    assert metrics == {
        "task_accuracy": 0.5,
        "epsilon_total": 6.0,
        "epsilon_round": 3.0,
        "measured": 1.0,
        "noted": 7.0,
    }
