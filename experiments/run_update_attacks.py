"""A server that only looks: gradient inversion, first layers, membership.

    python -m experiments.run_update_attacks \
        --flagfile=experiments/configs/inversion_digits.flags \
        --output_dir=runs/inversion

Trains a federation, attacks what the server sees of it, and writes a report. Defences
are flags, each with the settings of its part, e.g. --local_dp=clip=1,noise_multiplier=2
or --secure_aggregation=bound=1; the attack is then made on what they leave to see. The
same command goes on with a run that was interrupted.
"""

import asyncio
import dataclasses
import time

from absl import flags

from computations.defended_fed_avg import Algorithm, Defences
from experiments import (
    common_flags,
    privacy,
    update_attacks_evaluation,
    update_attacks_program,
    update_attacks_report,
)
from experiments.federation import integers
from experiments.run_clock import RunClock
from experiments.settings import build_optional, parse, plain
from experiments.update_attacks_data import Data, build_data
from experiments.update_attacks_program import (
    FIXED_INVERSION_FIELDS,
    FIXED_USER_FIELDS,
    Attack,
    Labels,
    NetworkKind,
    Settings,
)
from tff_leak.attacks.gradient_inversion import GradientInversion
from tff_leak.data import sources
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import SecureAggregation
from tff_leak.defences.user_level_dp import UserLevelDp
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.runtime import cli
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory

# --help shows them as well.
flags.adopt_module_key_flags(common_flags)
_ATTACK = flags.DEFINE_enum_class(
    "attack", Attack.GRADIENT_INVERSION, Attack, "What the server computes."
)
_DATASET = flags.DEFINE_string("dataset", "digits", "As in run_client_gan.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Of the federation.", lower_bound=1)
_ATTACK_ROUND = flags.DEFINE_integer(
    "attack_round", 1, "Round whose updates are attacked; not for membership."
)
_POOLED_ROUNDS = flags.DEFINE_integer(
    "pooled_rounds",
    1,
    "Rounds from --attack_round on that are attacked together; not for membership.",
)
_CLIENTS = flags.DEFINE_integer("clients", 10, "Their number.", lower_bound=1)
_CLASSES = flags.DEFINE_integer(
    "classes_per_client", 4, "Random classes of each client.", lower_bound=1
)
_PER_CLASS = flags.DEFINE_integer(
    "per_class", 1, "A client's images of each of its classes.", lower_bound=1
)
_VICTIMS = flags.DEFINE_list(
    "victims",
    [],
    "Numbers of the clients aimed at; default: all of them. Not for membership.",
)
_ALGORITHM = flags.DEFINE_enum_class(
    "algorithm", Algorithm.FED_SGD, Algorithm, "What clients send."
)
_TRAINING = flags.DEFINE_string(
    "training", "", "Overrides of BatchSgd, e.g. learning_rate=0.05,epochs=2."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Of the clients' batches; default: all of a client's images.",
    lower_bound=1,
)
_NETWORK = flags.DEFINE_enum_class(
    "network", NetworkKind.CNN, NetworkKind, "The shared model."
)
_INVERSION = flags.DEFINE_string(
    "inversion",
    "",
    "Overrides of GradientInversion, e.g. distance=cosine,optimizer=adam.",
)
_LABELS = flags.DEFINE_enum_class(
    "labels", Labels.INFERRED, Labels, "Of an inversion: from the update, or known."
)
_RECORD_DP = flags.DEFINE_string(
    "record_dp",
    "",
    "Differential privacy of the training, by record: settings of RecordLevelDp, e.g. "
    "clip=1,noise_multiplier=1.1; empty: none.",
)
_LOCAL_DP = flags.DEFINE_string(
    "local_dp",
    "",
    "Differential privacy of what a client sends, by the client itself: settings of "
    "LocalDp, e.g. clip=1,noise_multiplier=1; empty: none.",
)
_USER_DP = flags.DEFINE_string(
    "user_dp",
    "",
    "Differential privacy of a client in the sum, by the server: settings of "
    "UserLevelDp, e.g. clip=1,noise_multiplier=1,mechanism=tree; empty: none.",
)
_SECURE_AGGREGATION = flags.DEFINE_string(
    "secure_aggregation",
    "",
    "The server sees the sum alone: settings of SecureAggregation, e.g. bound=1; "
    "empty: it sees every client's update.",
)
_PRIVACY_BUDGET = flags.DEFINE_float(
    "privacy_budget",
    None,
    "Largest epsilon: the run ends before a round that would pass it.",
)


def main(argv: list[str]) -> None:
    """Reads the flags, runs the experiment, writes and announces the report."""
    del argv
    started = time.monotonic()
    threads = common_flags.start("runs/inversion")
    settings = _settings()
    data = _data(settings)
    # What cannot be built must not leave a run directory behind.
    experiment = update_attacks_program.build_experiment(settings, data)
    with RunDirectory.open(
        common_flags.OUTPUT_DIR.value, _config(settings, threads), volatile=["data_dir"]
    ) as directory:
        clock = RunClock(directory, started)
        common_flags.use_runtime(threads)
        with Progress(settings.rounds, settings.attack.value) as progress:
            states = asyncio.run(
                update_attacks_program.run(experiment, directory, progress)
            )
        evaluation = update_attacks_evaluation.evaluate(
            experiment, states, directory, clock
        )
        finding = update_attacks_report.write_report(experiment, evaluation, directory)
        print(finding)
        print(f"Report: {directory.report}")


def _settings() -> Settings:
    return Settings(
        attack=_ATTACK.value,
        rounds=_ROUNDS.value,
        attack_round=_ATTACK_ROUND.value,
        pooled_rounds=_POOLED_ROUNDS.value,
        seed=common_flags.SEED.value,
        algorithm=_ALGORITHM.value,
        training=BatchSgd(**parse(BatchSgd, _TRAINING.value, flag=_TRAINING.name)),
        batch_size=_BATCH_SIZE.value,
        network=_NETWORK.value,
        inversion=parse(
            GradientInversion,
            _INVERSION.value,
            flag=_INVERSION.name,
            given=FIXED_INVERSION_FIELDS,
        ),
        labels=_LABELS.value,
        defences=_defences(),
        privacy_budget=_PRIVACY_BUDGET.value,
    )


def _defences() -> Defences:
    def build(cls, flag, **given):
        return build_optional(cls, flag.value, flag=flag.name, given=given)

    return Defences(
        record_dp=build(RecordLevelDp, _RECORD_DP),
        local_dp=build(LocalDp, _LOCAL_DP),
        user_dp=build(
            UserLevelDp,
            _USER_DP,
            **dict.fromkeys(FIXED_USER_FIELDS, _CLIENTS.value),
        ),
        secure_aggregation=build(SecureAggregation, _SECURE_AGGREGATION),
    )


def _data(settings: Settings) -> Data:
    member = settings.attack is Attack.MEMBERSHIP
    if member and _VICTIMS.value:
        raise InputError(
            f"--victims is {','.join(_VICTIMS.value)} with --attack=membership: "
            "expected none, since it asks about everybody's examples; leave it out"
        )
    source = sources.load(
        _DATASET.value, data_dir=common_flags.DATA_DIR.value, seed=settings.seed
    )
    return build_data(
        source,
        clients=_CLIENTS.value,
        classes_per_client=_CLASSES.value,
        per_class=_PER_CLASS.value,
        victims=integers(_VICTIMS),
        with_control=not member,
        seed=settings.seed,
    )


def _config(settings: Settings, threads: int) -> dict:
    """Every flag, with settings spelled out: defaults are part of a run's identity."""
    pooled = settings.pooled_rounds
    defences = {
        field.name: getattr(settings.defences, field.name)
        for field in dataclasses.fields(settings.defences)
    }
    return (
        common_flags.config(threads)
        | privacy.config(defences, settings.privacy_budget)
        | {
            "experiment": "update_attacks",
            "attack": settings.attack.value,
            "dataset": _DATASET.value,
            "rounds": settings.rounds,
            "attack_round": settings.attack_round,
            # Only where there are several: runs from before they could be go on.
            **({"pooled_rounds": pooled} if pooled > 1 else {}),
            "clients": _CLIENTS.value,
            "classes_per_client": _CLASSES.value,
            "per_class": _PER_CLASS.value,
            "victims": integers(_VICTIMS),
            "algorithm": settings.algorithm.value,
            "training": plain(settings.training),
            "batch_size": settings.batch_size,
            "network": settings.network.value,
            "inversion": update_attacks_program.inversion_config(settings.inversion),
            "labels": settings.labels.value,
        }
    )


if __name__ == "__main__":
    cli.run_main(main)
