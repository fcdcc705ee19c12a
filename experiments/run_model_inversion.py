"""Model inversion of a finished network (Hitaj et al., CCS 2017, section 9.1).

    python -m experiments.run_model_inversion \
        --flagfile=experiments/configs/hitaj_fig5_mi_cnn_quick.flags \
        --output_dir=runs/mi_cnn

Trains a network and its controls, inverts them for each class, scores the pictures and
writes a report. The same command goes on with a run that was interrupted.
"""

import asyncio
import time

from absl import flags

from experiments import common_flags, model_inversion_program, model_inversion_report
from experiments.federation import integers
from experiments.model_inversion_program import NetworkKind
from experiments.run_clock import RunClock
from experiments.settings import parse, plain
from tff_leak.attacks.model_inversion import ModelInversion
from tff_leak.data import partition, sources
from tff_leak.errors import InputError
from tff_leak.models.training import LocalSgd
from tff_leak.runtime import cli
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory

# --help shows them as well.
flags.adopt_module_key_flags(common_flags)
_DATASET = flags.DEFINE_string("dataset", "digits", "As in run_client_gan.")
_PER_CLASS = flags.DEFINE_integer(
    "per_class",
    None,
    "At most so many training images of a class.",
    lower_bound=1,
)
_NETWORK = flags.DEFINE_enum_class(
    "network",
    NetworkKind.CNN,
    NetworkKind,
    "The network: section 8.3's CNN, a perceptron with one hidden layer, or the shared "
    "model of Wang et al. for faces.",
)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Of training, at most.", lower_bound=1)
_STOP_ACCURACY = flags.DEFINE_float(
    "stop_accuracy",
    None,
    "Training ends after the first epoch with this accuracy on held-out images; "
    "default: after the last epoch.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_ARMS = flags.DEFINE_list(
    "arms",
    ["attack", "control"],
    "Networks to train: attack, control.",
)
_TRAINING = flags.DEFINE_string(
    "training", "", "Overrides of LocalSgd, e.g. learning_rate=0.01."
)
_INVERSION = flags.DEFINE_string(
    "inversion", "", "Overrides of ModelInversion, e.g. step=4,iterations=2000."
)
_TARGETS = flags.DEFINE_list("targets", None, "Classes to invert; default: all.")
_DESCENTS = flags.DEFINE_integer(
    "descents",
    1,
    "Pictures of a class; more than one need start_noise in --inversion.",
    lower_bound=1,
)


def main(argv: list[str]) -> None:
    """Reads the flags, runs the experiment, writes and announces the report."""
    del argv
    started = time.monotonic()
    threads = common_flags.start("runs/mi")
    data = _data()
    settings = _settings(data.source.num_classes)
    # What cannot be built must not leave a run directory behind.
    experiment = model_inversion_program.build_experiment(settings, data)
    with RunDirectory.open(
        common_flags.OUTPUT_DIR.value, _config(settings, threads), volatile=["data_dir"]
    ) as directory:
        clock = RunClock(directory, started)
        common_flags.use_runtime(threads)
        with Progress(settings.epochs, "model inversion") as progress:
            initial, trained = asyncio.run(
                model_inversion_program.run(experiment, directory, progress)
            )
        evaluation = model_inversion_program.evaluate(
            experiment, initial, trained, directory, clock
        )
        finding = model_inversion_report.write_report(experiment, evaluation, directory)
        print(finding)
        print(f"Report: {directory.report}")


def _settings(num_classes: int) -> model_inversion_program.Settings:
    # A round of the protocol is one epoch; --epochs says how many.
    training = parse(LocalSgd, _TRAINING.value, flag=_TRAINING.name, given=("epochs",))
    inversion = parse(ModelInversion, _INVERSION.value, flag=_INVERSION.name)
    every = list(range(num_classes))
    return model_inversion_program.Settings(
        epochs=_EPOCHS.value,
        stop_accuracy=_STOP_ACCURACY.value,
        seed=common_flags.SEED.value,
        arms=_arms(),
        network=_NETWORK.value,
        training=LocalSgd(**training),
        inversion=ModelInversion(**inversion),
        targets=every if _TARGETS.value is None else integers(_TARGETS),
        descents=_DESCENTS.value,
    )


def _arms() -> list[str]:
    for name in _ARMS.value:
        if name not in model_inversion_program.ARMS or _ARMS.value.count(name) > 1:
            raise InputError(
                f"--arms has {name!r}: expected some of "
                f"{', '.join(model_inversion_program.ARMS)}, each once; correct the "
                "list"
            )
    return _ARMS.value


def _data() -> model_inversion_program.Data:
    seed = common_flags.SEED.value
    source = sources.load(
        _DATASET.value, data_dir=common_flags.DATA_DIR.value, seed=seed
    )
    pools = partition.split_pools(source, per_class=_PER_CLASS.value, seed=seed)
    return model_inversion_program.Data(
        source=source,
        train=pools.participants,
        judge=pools.judge,
        reference=pools.reference,
    )


def _config(settings: model_inversion_program.Settings, threads: int) -> dict:
    """Every flag, with settings spelled out: defaults are part of a run's identity."""
    return common_flags.config(threads) | {
        "experiment": "model_inversion",
        "dataset": _DATASET.value,
        "per_class": _PER_CLASS.value,
        "network": settings.network.value,
        "epochs": settings.epochs,
        "stop_accuracy": settings.stop_accuracy,
        "arms": list(settings.arms),
        "training": plain(settings.training),
        "inversion": plain(settings.inversion),
        "targets": list(settings.targets),
        "descents": settings.descents,
    }


if __name__ == "__main__":
    cli.run_main(main)
