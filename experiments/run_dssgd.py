"""Honest collaborative learning by DSSGD, for each order of turns (no attack).

    python -m experiments.run_dssgd \
        --flagfile=experiments/configs/dssgd_mnist.flags --output_dir=runs/dssgd_mnist

Hitaj et al., section 8, and Shokri and Shmatikov: what the shared model learns while
participants hold different classes. Each order is an arm of one run; its accuracy on
held-out images is measured after every turn. The same command goes on with a run that
was interrupted.
"""

import asyncio
import csv
import time
from collections.abc import Mapping
from typing import NamedTuple

from absl import flags

from computations import dssgd
from computations.dssgd import TurnOrder
from experiments import common_flags, privacy
from experiments.dssgd_arm import (
    DssgdArm,
    build_accuracy,
    epsilon_spent,
    local_dataset,
)
from experiments.federation import build_federation
from experiments.networks import papers_networks
from experiments.privacy import (
    build_goes_on,
    build_spending,
    for_json,
    local_training,
)
from experiments.run_clock import RunClock
from experiments.settings import build_optional, parse, plain
from tff_leak.data import partition, sources
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.selective_sharing import SelectiveSharing
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import cli, program
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory, atomic_write_json

# --help shows them as well.
flags.adopt_module_key_flags(common_flags)
_DATASET = flags.DEFINE_string("dataset", "digits", "As in run_client_gan.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", 30, "Rounds; in each every participant has a turn.", lower_bound=1
)
_PARTICIPANTS = flags.DEFINE_string("participants", "0-4;5-9", "As in run_client_gan.")
_ORDERS = flags.DEFINE_multi_enum_class(
    "order", list(TurnOrder), TurnOrder, "Orders of turns, each an arm of the run."
)
_MAX_STALENESS = flags.DEFINE_integer(
    "max_staleness", 2, "Turns, for the asynchronous arm.", lower_bound=1
)
_SHARING = flags.DEFINE_string(
    "sharing", "", "Overrides of SelectiveSharing, e.g. upload_fraction=0.1."
)
_SPARSE_VECTOR = flags.DEFINE_string(
    "sparse_vector", "", "Differential privacy of uploads, as in run_client_gan."
)
_RECORD_DP = flags.DEFINE_string(
    "record_dp", "", "Differential privacy of the training, as in run_client_gan."
)
_LOCAL_DP = flags.DEFINE_string(
    "local_dp", "", "Differential privacy of a turn's upload, as in run_client_gan."
)
_PRIVACY_BUDGET = flags.DEFINE_float(
    "privacy_budget", None, "Largest epsilon of a participant, as in run_client_gan."
)
_TRAINING = flags.DEFINE_string(
    "training", "", "Overrides of LocalSgd, e.g. learning_rate=0.01."
)


def main(argv: list[str]) -> None:
    """Reads the flags, trains, and prints each order's best accuracy."""
    del argv
    started = time.monotonic()
    threads = common_flags.start("runs/dssgd")
    settings = _settings()
    arms = _arms(settings)
    goes_on = build_goes_on(
        {name: arm.spending for name, arm in arms.items()},
        _PRIVACY_BUDGET.value,
        len(next(iter(arms.values())).datasets),
    )
    config = _config(settings, threads)
    with RunDirectory.open(
        common_flags.OUTPUT_DIR.value, config, volatile=["data_dir"]
    ) as directory:
        clock = RunClock(directory, started)
        common_flags.use_runtime(threads)
        with Progress(_ROUNDS.value, "DSSGD") as progress:
            asyncio.run(
                program.run(
                    arms,
                    rounds=_ROUNDS.value,
                    directory=directory,
                    progress=progress,
                    goes_on=goes_on,
                )
            )
        summary = _summary(directory, list(arms), clock)
        atomic_write_json(directory.summary, summary)
        for name, figures in summary["orders"].items():
            print(
                f"{name}: best accuracy {figures['best_accuracy']:.4f} "
                f"(round {figures['best_round']}, chosen on the test images), "
                f"last {figures['last_accuracy']:.4f}"
            )
        print(f"Metrics: {directory.metrics_csv}")


class _Settings(NamedTuple):
    """What participants agree on."""

    sharing: SelectiveSharing
    training: LocalSgd
    privacy: SparseVector | None
    record_dp: RecordLevelDp | None
    local_dp: LocalDp | None


def _settings() -> _Settings:
    sharing = parse(SelectiveSharing, _SHARING.value, flag="sharing")
    training = parse(LocalSgd, _TRAINING.value, flag="training")
    privacy = build_optional(
        SparseVector, _SPARSE_VECTOR.value, flag=_SPARSE_VECTOR.name
    )
    record_dp = build_optional(RecordLevelDp, _RECORD_DP.value, flag=_RECORD_DP.name)
    local_dp = build_optional(LocalDp, _LOCAL_DP.value, flag=_LOCAL_DP.name)
    return _Settings(
        SelectiveSharing(**sharing), LocalSgd(**training), privacy, record_dp, local_dp
    )


def _arms(settings: _Settings) -> dict[str, DssgdArm]:
    """One arm an order; the synchronous ones share their process."""
    seed = common_flags.SEED.value
    source = sources.load(
        _DATASET.value, data_dir=common_flags.DATA_DIR.value, seed=seed
    )
    # No judge and, with an official test part, nothing held back of the training part.
    pools = partition.split_pools(source, judge_per_class=0, seed=seed)
    federation = build_federation(
        source,
        pools.participants,
        participants=_PARTICIPANTS.value,
        adversaries=[],
        targets=[],
        seed=seed,
    )
    network, _ = papers_networks(source.image_shape, source.num_classes, base_filters=1)
    accuracy = build_accuracy(network, pools.reference)
    datasets = [local_dataset(part) for part in federation.data]
    spending = build_spending(
        network,
        settings.training,
        settings.privacy,
        settings.record_dp,
        [len(part) for part in federation.data],
        settings.local_dp,
    )
    processes = {}
    arms = {}
    for order in dict.fromkeys(_ORDERS.value):
        stale = _MAX_STALENESS.value if order is TurnOrder.ASYNCHRONOUS else 0
        if stale not in processes:
            processes[stale] = dssgd.build_dssgd(
                network,
                sharing=settings.sharing,
                privacy=settings.privacy or settings.local_dp,
                training=local_training(network, settings.training, settings.record_dp),
                max_staleness=stale,
                seed=seed,
            )
        arms[order.value] = DssgdArm(
            process=processes[stale],
            network=network,
            datasets=datasets,
            order=order,
            seed=seed,
            accuracy=accuracy,
            spending=spending,
        )
    return arms


def _config(settings: _Settings, threads: int) -> dict:
    private = privacy.config(
        {
            "sparse_vector": settings.privacy,
            "record_dp": settings.record_dp,
            "local_dp": settings.local_dp,
        },
        _PRIVACY_BUDGET.value,
    )
    return (
        common_flags.config(threads)
        | private
        | {
            "experiment": "dssgd",
            "dataset": _DATASET.value,
            "rounds": _ROUNDS.value,
            "participants": _PARTICIPANTS.value,
            "order": [order.value for order in _ORDERS.value],
            "max_staleness": _MAX_STALENESS.value,
            "sharing": plain(settings.sharing, newer=("download_criterion",)),
            "training": plain(settings.training),
        }
    )


def _summary(directory: RunDirectory, orders: list[str], clock: RunClock) -> dict:
    """Best and last accuracy of each order, over all turns, from `metrics.csv`."""
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures = {}
    for name in orders:
        columns = [key for key in rows[0] if key.startswith(f"{name}/task_accuracy")]
        best = [max(float(row[key]) for key in columns) for row in rows]
        figures[name] = {
            "best_accuracy": max(best),
            "best_round": int(rows[best.index(max(best))]["round"]),
            "last_accuracy": float(rows[-1][f"{name}/task_accuracy"]),
        }
    return {
        "experiment": "dssgd",
        "dataset": directory.config["dataset"],
        "seed": directory.config["seed"],
        "rounds": len(rows),
        "seconds": clock.seconds(),
        "epsilon": for_json(epsilon_spent(directory.metrics_csv, orders)),
        "epsilon_turn": for_json(
            epsilon_spent(directory.metrics_csv, orders, "epsilon_turn")
        ),
        "delta": _delta(directory.config),
        "orders": figures,
    }


def _delta(config: Mapping) -> float | None:
    """Of the differential privacy that has one."""
    private = config.get("record_dp") or config.get("local_dp") or {}
    return private.get("delta")


if __name__ == "__main__":
    cli.run_main(main)
