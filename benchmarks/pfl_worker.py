"""The side of pfl in benchmark e: runs in an environment of its own, on request.

Not to be imported here: it needs the packages of `pfl-requirements.txt`. Started by
`pfl_cohort` as `python pfl_worker.py START.npz FIRST.npz THREADS`, it trains one cohort
for each line that it reads and then prints "done". After the first cohort it writes
the model to FIRST.npz.

START.npz has images float32 `[users, n, 32, 32, 3]`, labels int64 `[users, n]`,
cohort, batch_size, learning_rate, and the initial weights `weight_0`, ..., in
PyTorch's layout. Cohorts are consecutive users, round and round.
"""

import itertools
import sys
import types

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

_ROUNDS = 1_000_000  # The end of the input ends it before.


class OnRequest(TrainingProcessCallback):
    """Says when a round is done, and waits for the request for the next."""

    def __init__(self, first: str):
        self._first = first

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Returns whether to stop, and no metrics."""
        if central_iteration == 0:
            arrays = {
                f"weight_{number}": parameter.detach().numpy()
                for number, parameter in enumerate(model.pytorch_model.parameters())
            }
            np.savez(self._first, **arrays)
        print("done", flush=True)
        return not sys.stdin.readline(), Metrics()


def build_model(start) -> nn.Module:
    """Returns the CNN of pfl-research's CIFAR-10 benchmark, without its dropout."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(14 * 14 * 64, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.from_numpy(start[f"weight_{number}"]))

    def loss(self, images, labels):
        return nn.functional.cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images, labels):
        right = (self(images).argmax(1) == labels).sum().item()
        return {"accuracy": Weighted(right, len(labels))}

    model.loss = types.MethodType(loss, model)
    model.metrics = types.MethodType(metrics, model)
    return model


def build_users(start) -> FederatedDataset:
    """Returns users with tensors; the next cohort is the next users in order."""
    # PyTorch's own layout, once and for all: not part of the time of a round.
    images = torch.from_numpy(start["images"]).permute(0, 1, 4, 2, 3).contiguous()
    labels = torch.from_numpy(start["labels"])
    data = [[images[user], labels[user]] for user in range(len(labels))]
    order = itertools.cycle(range(len(data)))
    return FederatedDataset.from_slices(data, lambda: next(order))


def main(start_path: str, first_path: str, threads: str) -> None:
    """Trains cohort after cohort."""
    torch.set_num_threads(int(threads))
    start = np.load(start_path)
    model = build_model(start)
    users = build_users(start)
    sys.stdin.readline()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=_ROUNDS,
            evaluation_frequency=_ROUNDS,
            train_cohort_size=int(start["cohort"]),
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=users,
            val_data=users,
            postprocessors=[WeightByDatapoints()],
        ),
        model=PyTorchModel(
            model=model,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        ),
        model_train_params=NNTrainHyperParams(
            local_learning_rate=float(start["learning_rate"]),
            local_num_epochs=1,
            local_batch_size=int(start["batch_size"]),
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[OnRequest(first_path)],
        send_metrics_to_platform=False,  # It would print them.
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
