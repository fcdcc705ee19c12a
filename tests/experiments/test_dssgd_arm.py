"""The arm's accounting: whoever has had the most turns has spent the most."""

import asyncio
import dataclasses

import numpy as np
import pytest

from computations.dssgd import ClientState, TurnOrder
from experiments.dssgd_arm import ArmState, DssgdArm, epsilon_spent


class _Process:
    """Counts turns, and names a price."""

    def __init__(self, **metrics):
        self._metrics = {"examples": 1, "loss": 1.0, "uploaded": 1.0, **metrics}

    async def next(self, server, data, clients):
        del data
        states = [client._replace(turn=client.turn + 1) for client in clients]
        return server, states, self._metrics


def _arm(**metrics):
    return DssgdArm(
        process=_Process(**metrics),
        network=None,
        datasets=[None, None, None],
        order=TurnOrder.FIXED,
        seed=0,
        accuracy=lambda server: 0.5,
    )


def _state(turns):
    clients = [
        ClientState(np.int32(number), None, None, np.int32(turn), np.int32(0), ())
        for number, turn in enumerate(turns)
    ]
    return ArmState(None, clients)


@pytest.mark.parametrize("turns, spent", [([0, 0, 0], 2.5), ([3, 7, 0], 20.0)])
def test_epsilon_is_that_of_the_most_exposed_participant(turns, spent):
    arm = _arm(epsilon=2.5)
    state, metrics = asyncio.run(arm.run_round(_state(turns), 1))
    assert metrics["epsilon_total"] == spent
    assert metrics["epsilon_turn"] == 2.5
    # What was spent is read from the states, so a resumed run goes on with it.
    _, metrics = asyncio.run(arm.run_round(state, 2))
    assert metrics["epsilon_total"] == spent + 2.5


def test_what_the_process_does_not_state_is_reckoned_from_turns():
    arm = dataclasses.replace(_arm(), spending=lambda turns: 10.0 * max(turns) ** 2)
    _, metrics = asyncio.run(arm.run_round(_state([0, 2, 1]), 1))
    assert metrics["epsilon_turn"] == 10.0
    assert metrics["epsilon_total"] == 90.0


def test_without_privacy_there_is_no_epsilon():
    _, metrics = asyncio.run(_arm().run_round(_state([0, 0, 0]), 1))
    assert "epsilon_total" not in metrics
    assert metrics["train_loss"] == 1.0


def test_epsilon_of_a_run_is_its_arms_largest_at_the_end(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("round,a/epsilon_total,b/epsilon_total\n1,2.0,9.0\n2,4.0,3.5\n")
    assert epsilon_spent(path, ["a", "b"]) == 4.0
    # What the others spend is nobody's concern.
    assert epsilon_spent(path, ["b"]) == 3.5
    assert epsilon_spent(path, ["a", "b"], "epsilon_turn") is None
    path.write_text("round,a/uploaded\n1,0.5\n")
    assert epsilon_spent(path, ["a"]) is None
