"""A malicious server's attack on one client: mGAN-AI (Wang et al., INFOCOM 2019).

    python -m experiments.run_server_gan \
        --flagfile=experiments/configs/mgan_fig4_strengthened_quick.flags \
        --output_dir=runs/mgan

Runs the attack and its control side by side, scores what the server drew, and writes a
report. What clients do against it are flags, each with the settings of its part, e.g.
--local_dp=clip=1,noise_multiplier=0.01. The same command goes on with a run that was
interrupted.
"""

import asyncio
import dataclasses
import time

from absl import flags

from computations.defended_fed_avg import Defences
from experiments import common_flags, privacy, server_gan_program, server_gan_report
from experiments.glasses_data import build_glasses_data
from experiments.run_clock import RunClock
from experiments.server_gan_data import Data, build_data
from experiments.server_gan_program import Arm, GanSettings, Server, Settings
from experiments.settings import build_optional, parse, plain
from tff_leak.attacks.deviations import Deviations, Mode, deviations_of
from tff_leak.attacks.representatives import Representatives
from tff_leak.attacks.server_gan import ServerGan
from tff_leak.data import sources
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.errors import InputError
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.runtime import cli
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory

# --help shows them as well.
flags.adopt_module_key_flags(common_flags)
_DATASET = flags.DEFINE_string(
    "dataset", "mnist", "As in run_client_gan; grey pictures of 32x32 or 64x64."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 30, "Rounds of federated averaging.", lower_bound=1
)
_CLIENTS = flags.DEFINE_integer("clients", 10, "Their number.", lower_bound=1)
_CLASSES = flags.DEFINE_integer(
    "classes_per_client",
    3,
    "Random classes of each client; with --property=glasses of the victim, the others "
    "share out everybody else.",
    lower_bound=1,
)
_PER_CLASS = flags.DEFINE_integer(
    "per_class", 100, "A client's images of each of its classes.", lower_bound=1
)
_VICTIM = flags.DEFINE_integer("victim", 0, "Number of the client aimed at.")
_TURN = "turn"
_PROPERTY = flags.DEFINE_enum(
    "property",
    "turn",
    [_TURN, "glasses"],
    "What only the victim's images have: turned by --angle, or glasses, for which "
    "--dataset is att_faces or synthetic_faces.",
)
_ANGLE = flags.DEFINE_float(
    "angle", 40.0, "By which the victim's images are turned, counter-clockwise."
)
_AUXILIARY = flags.DEFINE_integer(
    "auxiliary",
    2000,
    "Images that the server has of its own; with --property=glasses of a person, at "
    "most, and one of each of the victim's.",
    lower_bound=1,
)
_ARMS = flags.DEFINE_list(
    "arms", ["attack", "control"], "Federations to run: attack, control, honest."
)
_SERVER = flags.DEFINE_enum_class(
    "server", Server.PASSIVE, Server, "What the malicious server does."
)
_MODE = flags.DEFINE_enum_class(
    "mode", Mode.PAPER, Mode, "The paper's attack, or what strengthens it."
)
_DEVIATIONS = flags.DEFINE_string(
    "deviations", "", "Overrides of the mode's Deviations, e.g. noise=0.1."
)
_TRAINING = flags.DEFINE_string(
    "training", "learning_rate=0.002", "Overrides of BatchSgd; the paper's rate."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 3, "Of the clients' batches.", lower_bound=1
)
_ATTACK = flags.DEFINE_string(
    "attack", "", "Overrides of ServerGan, e.g. generator_steps=100."
)
_GAN = flags.DEFINE_string(
    "gan", "", "Overrides of GanSettings, e.g. learning_rate=0.0005."
)
_MATCHING = flags.DEFINE_string(
    "matching", "", "Overrides of Representatives, e.g. images=9,iterations=60."
)
_SNAPSHOT_EVERY = flags.DEFINE_integer(
    "snapshot_every", 5, "Rounds between two looks at the generator.", lower_bound=1
)
_RECORD_DP = flags.DEFINE_string(
    "record_dp",
    "",
    "Differential privacy of the clients' training, by record: settings of "
    "RecordLevelDp, e.g. clip=1,noise_multiplier=1.1; empty: none.",
)
_LOCAL_DP = flags.DEFINE_string(
    "local_dp",
    "",
    "Differential privacy of what a client sends, by the client itself: settings of "
    "LocalDp, e.g. clip=1,noise_multiplier=1; empty: none.",
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
    threads = common_flags.start("runs/mgan")
    settings = _settings()
    data = _data(settings.seed)
    # What cannot be built must not leave a run directory behind.
    experiment = server_gan_program.build_experiment(settings, data)
    with RunDirectory.open(
        common_flags.OUTPUT_DIR.value,
        _config(experiment, threads),
        volatile=["data_dir"],
    ) as directory:
        clock = RunClock(directory, started)
        common_flags.use_runtime(threads)
        with Progress(settings.rounds, "server GAN") as progress:
            states = asyncio.run(
                server_gan_program.run(experiment, directory, progress)
            )
        evaluation = server_gan_program.evaluate(experiment, states, directory, clock)
        finding = server_gan_report.write_report(experiment, evaluation, directory)
        print(finding)
        print(f"Report: {directory.report}")


def _settings() -> Settings:
    def build(cls, flag):
        return cls(**parse(cls, flag.value, flag=flag.name))

    deviations = parse(Deviations, _DEVIATIONS.value, flag=_DEVIATIONS.name)
    if deviations and _MODE.value is Mode.PAPER:
        raise InputError(
            f"--deviations is {_DEVIATIONS.value!r} with --mode=paper: expected none; "
            "the paper's attack has none, give --mode=strengthened"
        )
    return Settings(
        rounds=_ROUNDS.value,
        seed=common_flags.SEED.value,
        arms=_arms(),
        server=_SERVER.value,
        training=build(BatchSgd, _TRAINING),
        batch_size=_BATCH_SIZE.value,
        gan=build(GanSettings, _GAN),
        deviations=dataclasses.replace(deviations_of(_MODE.value), **deviations),
        attack=parse(
            ServerGan,
            _ATTACK.value,
            flag=_ATTACK.name,
            given=server_gan_program.FIXED_ATTACK_FIELDS,
        ),
        matching=parse(
            Representatives,
            _MATCHING.value,
            flag=_MATCHING.name,
            given=server_gan_program.FIXED_MATCHING_FIELDS,
        ),
        snapshot_every=_SNAPSHOT_EVERY.value,
        defences=Defences(
            record_dp=build_optional(
                RecordLevelDp, _RECORD_DP.value, flag=_RECORD_DP.name
            ),
            local_dp=build_optional(LocalDp, _LOCAL_DP.value, flag=_LOCAL_DP.name),
        ),
        privacy_budget=_PRIVACY_BUDGET.value,
    )


def _arms() -> list[Arm]:
    names = [arm.value for arm in Arm]
    for name in _ARMS.value:
        if name not in names or _ARMS.value.count(name) > 1:
            raise InputError(
                f"--arms has {name!r}: expected some of {', '.join(names)}, each once; "
                "correct the list"
            )
    return [Arm(name) for name in _ARMS.value]


def _data(seed: int) -> Data:
    source = sources.load(
        _DATASET.value, data_dir=common_flags.DATA_DIR.value, seed=seed
    )
    shared = {
        "clients": _CLIENTS.value,
        "victim": _VICTIM.value,
        "auxiliary": _AUXILIARY.value,
        "seed": seed,
    }
    if _PROPERTY.value != _TURN:
        if flags.FLAGS["angle"].present:
            raise InputError(
                f"--angle is {_ANGLE.value:g} beside --property={_PROPERTY.value}: "
                "expected it with a turn only, which it is the size of; leave one out"
            )
        return build_glasses_data(
            source, people=_CLASSES.value, per_person=_PER_CLASS.value, **shared
        )
    return build_data(
        source,
        classes_per_client=_CLASSES.value,
        per_class=_PER_CLASS.value,
        angle=_ANGLE.value,
        **shared,
    )


def _config(experiment: server_gan_program.Experiment, threads: int) -> dict:
    """Every flag, with settings spelled out: defaults are part of a run's identity."""
    settings = experiment.settings
    gan = plain(settings.gan)
    # Only what is not the default: runs from before there were these go on.
    if settings.gan.patch_planes == GanSettings.patch_planes:
        del gan["patch_planes"]
    kind = {} if _PROPERTY.value == _TURN else {"property": _PROPERTY.value}
    defences = {
        name: getattr(settings.defences, name) for name in ("record_dp", "local_dp")
    }
    return (
        common_flags.config(threads)
        | kind
        | privacy.config(defences, settings.privacy_budget)
        | {
            "experiment": "server_gan",
            "dataset": _DATASET.value,
            "rounds": settings.rounds,
            "clients": _CLIENTS.value,
            "classes_per_client": _CLASSES.value,
            "per_class": _PER_CLASS.value,
            "victim": _VICTIM.value,
            "angle": _ANGLE.value,
            "auxiliary": _AUXILIARY.value,
            "arms": [arm.value for arm in settings.arms],
            "server": settings.server.value,
            "mode": settings.deviations.mode.value,
            "deviations": plain(
                settings.deviations,
                newer=(
                    "explained",
                    "coverage",
                    "consensus",
                    "gradient_penalty",
                    "feature_matching",
                ),
            ),
            "training": plain(settings.training),
            "batch_size": settings.batch_size,
            "attack": server_gan_program.attack_config(settings.attack),
            "gan": gan,
            "matching": server_gan_program.matching_config(settings.matching),
            "snapshot_every": settings.snapshot_every,
        }
        # An active server's runs from before it could find any do not go on.
        | (
            {"finds_representatives": True}
            if server_gan_program.active_finds_representatives(settings)
            else {}
        )
    )


if __name__ == "__main__":
    cli.run_main(main)
