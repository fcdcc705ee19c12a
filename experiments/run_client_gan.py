"""A malicious client's GAN attack on collaborative learning (Hitaj et al., CCS 2017).

    python -m experiments.run_client_gan \
        --flagfile=experiments/configs/digits.flags --output_dir=runs/demo

Runs the attack and its control side by side, scores what the adversary drew, and
writes a report. The same command goes on with a run that was interrupted.
"""

import asyncio
import dataclasses
import time

from absl import flags

from computations.cohort_uploads import CohortUploads, Joining
from computations.dssgd import TurnOrder
from experiments import (
    client_gan_program,
    client_gan_report,
    common_flags,
    privacy,
)
from experiments.federation import Data, check_staleness, integers, load_data
from experiments.run_clock import RunClock
from experiments.settings import build_optional, parse, plain
from tff_leak.attacks.client_gan import ClientGan
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import SecureAggregation
from tff_leak.defences.selective_sharing import SelectiveSharing
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.defences.user_level_dp import UserLevelDp
from tff_leak.errors import InputError
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import cli
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory

# --help shows them as well.
flags.adopt_module_key_flags(common_flags)
_DATASET = flags.DEFINE_string(
    "dataset",
    "digits",
    "digits, mnist, att_faces, synthetic_faces, another data set of TFDS by its name, "
    "or image_folder:PATH.",
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 100, "Rounds; in each every participant has a turn.", lower_bound=1
)
_PER_CLASS = flags.DEFINE_integer(
    "per_class",
    None,
    "At most so many images of a class for all participants.",
    lower_bound=1,
)
_PARTICIPANTS = flags.DEFINE_string(
    "participants",
    "0-4;5-9",
    'Classes of each participant, separated by ";": lists such as 0-4 or 1,3, "none", '
    'or "each" for one participant a class; 40x0-4 are forty participants.',
)
_ADVERSARIES = flags.DEFINE_list(
    "adversaries", ["1"], "Numbers of the malicious participants, from 0."
)
_TARGETS = flags.DEFINE_list("targets", ["3"], "Class that each adversary wants.")
_ARMS = flags.DEFINE_list(
    "arms", ["attack", "control"], "Federations to run: attack, control, passive."
)
_SHARING = flags.DEFINE_string(
    "sharing", "", "Overrides of SelectiveSharing, e.g. upload_fraction=0.1."
)
_SPARSE_VECTOR = flags.DEFINE_string(
    "sparse_vector",
    "",
    "Differential privacy of uploads: settings of SparseVector, e.g. "
    "epsilon_per_parameter=10,upload_fraction=0.1; empty: none. Adversaries keep to "
    "it, which they need not: an attack may look weaker than it is.",
)
_RECORD_DP = flags.DEFINE_string(
    "record_dp",
    "",
    "Differential privacy of the training, by record: settings of RecordLevelDp, e.g. "
    "clip=1,noise_multiplier=1.1,sampling=poisson; empty: none.",
)
_LOCAL_DP = flags.DEFINE_string(
    "local_dp",
    "",
    "Differential privacy of what a participant's turn uploads, by itself: settings of "
    "LocalDp, e.g. clip=0.5,noise_multiplier=0.01; empty: none.",
)
_JOINING = flags.DEFINE_enum_class(
    "joining",
    Joining.SUM,
    Joining,
    "Of the uploads of participants that train all at once; mean is federated "
    "averaging.",
)
_USER_DP = flags.DEFINE_string(
    "user_dp",
    "",
    "Differential privacy of a participant in the sum, by the server; for "
    "--order=all_at_once: settings of UserLevelDp, e.g. clip=0.5,noise_multiplier=1; "
    "empty: none.",
)
_SECURE_AGGREGATION = flags.DEFINE_string(
    "secure_aggregation",
    "",
    "Uploads are summed securely; for --order=all_at_once: settings of "
    "SecureAggregation, e.g. bound=1; empty: in the clear.",
)
_PRIVACY_BUDGET = flags.DEFINE_float(
    "privacy_budget",
    None,
    "Largest epsilon of a participant: the run ends before a round that would pass it.",
)
_TRAINING = flags.DEFINE_string(
    "training", "", "Overrides of LocalSgd, e.g. learning_rate=0.01."
)
_ADVERSARY_TRAINING = flags.DEFINE_string(
    "adversary_training",
    "",
    "The adversaries' local training, which nobody can prescribe: settings of "
    "LocalSgd, e.g. learning_rate=0.01,epochs=5; empty: as all train.",
)
_ORDER = flags.DEFINE_enum_class(
    "order", TurnOrder.FIXED, TurnOrder, "Of the turns in a round."
)
_MAX_STALENESS = flags.DEFINE_integer(
    "max_staleness",
    0,
    "Turns that a downloaded model may be old; for --order=asynchronous only.",
    lower_bound=0,
)
_ATTACK = flags.DEFINE_string(
    "attack", "", "Overrides of ClientGan, e.g. generator_steps=20,replay_turns=2."
)
_GENERATOR = flags.DEFINE_string(
    "generator", "", "Overrides of GeneratorSettings, e.g. optimizer=adam."
)
_SNAPSHOT_EVERY = flags.DEFINE_integer(
    "snapshot_every", 10, "Rounds between two looks at the generators.", lower_bound=1
)

_COUNTED = ("clients_per_round",)  # of UserLevelDp: known once there are data


def main(argv: list[str]) -> None:
    """Reads the flags, runs the experiment, writes and announces the report."""
    del argv
    started = time.monotonic()
    threads = common_flags.start("runs/demo")
    settings = _settings()
    data = _data(common_flags.SEED.value)
    settings = _with_user_dp(settings, len(data.federation.data))
    # What cannot be built must not leave a run directory behind.
    experiment = client_gan_program.build_experiment(settings, data)
    with RunDirectory.open(
        common_flags.OUTPUT_DIR.value, _config(settings, threads), volatile=["data_dir"]
    ) as directory:
        clock = RunClock(directory, started)
        common_flags.use_runtime(threads)
        with Progress(settings.rounds, "client GAN") as progress:
            states = asyncio.run(
                client_gan_program.run(experiment, directory, progress)
            )
        evaluation = client_gan_program.evaluate(experiment, states, directory, clock)
        finding = client_gan_report.write_report(experiment, evaluation, directory)
        print(finding)
        print(f"Report: {directory.report}")


def _settings() -> client_gan_program.Settings:
    """All but user-level privacy, for which participants have to be counted."""

    def build(cls, flag):
        return cls(**parse(cls, flag.value, flag=flag.name))

    def build_if_given(cls, flag):
        return build_optional(cls, flag.value, flag=flag.name)

    check_staleness(_ORDER.value, _MAX_STALENESS.value)
    # Names and types of what has to wait are read all the same.
    parse(UserLevelDp, _USER_DP.value, flag=_USER_DP.name, given=_COUNTED)
    fixed = client_gan_program.FIXED_ATTACK_FIELDS
    return client_gan_program.Settings(
        rounds=_ROUNDS.value,
        seed=common_flags.SEED.value,
        arms=_arms(),
        sharing=build(SelectiveSharing, _SHARING),
        training=build(LocalSgd, _TRAINING),
        order=_ORDER.value,
        max_staleness=_MAX_STALENESS.value,
        attack=parse(ClientGan, _ATTACK.value, flag=_ATTACK.name, given=fixed),
        generator=build(client_gan_program.GeneratorSettings, _GENERATOR),
        snapshot_every=_SNAPSHOT_EVERY.value,
        privacy=build_if_given(SparseVector, _SPARSE_VECTOR),
        record_dp=build_if_given(RecordLevelDp, _RECORD_DP),
        local_dp=build_if_given(LocalDp, _LOCAL_DP),
        privacy_budget=_PRIVACY_BUDGET.value,
        uploads=CohortUploads(
            _JOINING.value,
            secure_aggregation=build_if_given(SecureAggregation, _SECURE_AGGREGATION),
        ),
        adversary_training=build_if_given(LocalSgd, _ADVERSARY_TRAINING),
    )


def _with_user_dp(
    settings: client_gan_program.Settings, participants: int
) -> client_gan_program.Settings:
    user_dp = build_optional(
        UserLevelDp,
        _USER_DP.value,
        flag=_USER_DP.name,
        given=dict.fromkeys(_COUNTED, participants),
    )
    uploads = dataclasses.replace(settings.uploads, user_dp=user_dp)
    return dataclasses.replace(settings, uploads=uploads)


def _arms() -> list[client_gan_program.Arm]:
    names = [arm.value for arm in client_gan_program.Arm]
    for name in _ARMS.value:
        if name not in names or _ARMS.value.count(name) > 1:
            raise InputError(
                f"--arms has {name!r}: expected some of {', '.join(names)}, each once; "
                "correct the list"
            )
    return [client_gan_program.Arm(name) for name in _ARMS.value]


def _data(seed: int) -> Data:
    return load_data(
        _DATASET.value,
        data_dir=common_flags.DATA_DIR.value,
        per_class=_PER_CLASS.value,
        participants=_PARTICIPANTS.value,
        adversaries=integers(_ADVERSARIES),
        targets=integers(_TARGETS),
        seed=seed,
    )


def _config(settings: client_gan_program.Settings, threads: int) -> dict:
    """Every flag, with settings spelled out: defaults are part of a run's identity."""
    private = privacy.config(
        {
            "sparse_vector": settings.privacy,
            "record_dp": settings.record_dp,
            "local_dp": settings.local_dp,
            "user_dp": settings.uploads.user_dp,
            "secure_aggregation": settings.uploads.secure_aggregation,
            "adversary_training": settings.adversary_training,
        },
        settings.privacy_budget,
    )
    # As there: runs from before there was this flag go on.
    joining = {}
    if settings.uploads.joining is not Joining.SUM:
        joining = {"joining": settings.uploads.joining.value}
    return (
        common_flags.config(threads)
        | private
        | joining
        | {
            "experiment": "client_gan",
            "dataset": _DATASET.value,
            "rounds": settings.rounds,
            "per_class": _PER_CLASS.value,
            "participants": _PARTICIPANTS.value,
            "adversaries": integers(_ADVERSARIES),
            "targets": integers(_TARGETS),
            "arms": [arm.value for arm in settings.arms],
            "sharing": plain(settings.sharing, newer=("download_criterion",)),
            "training": plain(settings.training),
            "order": settings.order.value,
            "max_staleness": settings.max_staleness,
            "attack": client_gan_program.attack_config(settings.attack),
            "generator": plain(settings.generator),
            "snapshot_every": settings.snapshot_every,
        }
    )


if __name__ == "__main__":
    cli.run_main(main)
