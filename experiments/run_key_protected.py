"""The experiments of "Key protected classification": the defence and attacks on it.

    python -m experiments.run_key_protected \
        --flagfile=experiments/configs/keys_digits.flags --output_dir=runs/keys

`--study` says what is measured: how near random keys come to one another, the accuracy
without an attack, attacks with known, near, random and searched keys, or classes that
participants share. The same command goes on with a run that was interrupted.
"""

import asyncio
import time

from absl import flags

from experiments import (
    client_gan_program,
    common_flags,
    key_protected_evaluation,
    key_protected_program,
    key_protected_report,
)
from experiments.federation import Data, integers, load_data
from experiments.key_federation import KeySettings
from experiments.key_geometry_arm import Geometry
from experiments.key_guesses import SearchTurns, parse_guesses
from experiments.key_protected_program import FIXED_ATTACK_FIELDS, Study
from experiments.run_clock import RunClock
from experiments.settings import parse, plain
from tff_leak.attacks.client_gan import ClientGan
from tff_leak.defences.key_protection import KeyTraining
from tff_leak.errors import InputError
from tff_leak.runtime import cli
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory

_WITHOUT_DATA = (Study.ORTHOGONALITY, Study.SHARED_CLASSES)

# --help shows them as well.
flags.adopt_module_key_flags(common_flags)
_STUDY = flags.DEFINE_enum_class("study", Study.ATTACK, Study, "What is measured.")
_DATASET = flags.DEFINE_string("dataset", "digits", "As in run_client_gan.")
_ROUNDS = flags.DEFINE_integer(
    "rounds",
    100,
    "Rounds; in each every participant has a turn. Keys alone: one a dimension.",
    lower_bound=1,
)
_PER_CLASS = flags.DEFINE_integer(
    "per_class",
    None,
    "At most so many images of a class for all participants.",
    lower_bound=1,
)
_HELD_OUT_PER_CLASS = flags.DEFINE_integer(
    "held_out_per_class",
    None,
    "With --study=accuracy: so many images of a class are held out for tests, and none "
    "for a judge. Default: as for attacks.",
    lower_bound=1,
)
_PARTICIPANTS = flags.DEFINE_string("participants", "0-4;5-9", "As in run_client_gan.")
_ADVERSARIES = flags.DEFINE_list(
    "adversaries",
    [],
    "Numbers of the malicious participants, from 0; of attacks. All may be: then each "
    "is a victim of the others.",
)
_TARGETS = flags.DEFINE_list(
    "targets",
    [],
    "Class that each adversary wants; with a random key only the control of who knows "
    "the key depends on it.",
)
_DIMENSIONS = flags.DEFINE_list("dimensions", ["1024"], "Of the keys, each in turn.")
_GUESSES = flags.DEFINE_list(
    "guesses",
    ["known", "random"],
    "Of the target's key: known, random, a distance from it, or a search and its "
    "effort in a turn: best:N, ascent:N, embeddings:N, drift:N, weights:N, moments:N.",
)
_SEARCH = flags.DEFINE_string(
    "search", "", "Overrides of SearchTurns, of all searches, e.g. first_turn=10."
)
_CONTROLS = flags.DEFINE_bool("controls", True, "Whether attacks have controls.")
_OWN_CONTROLS = flags.DEFINE_bool(
    "own_controls",
    False,
    "Whether each guess that is aimed at a key has a control of its own; otherwise "
    "they share the first one's.",
)
_KEYS = flags.DEFINE_string(
    "keys", "", "Overrides of KeySettings, e.g. hidden=64,normalisation=batch."
)
_TRAINING = flags.DEFINE_string(
    "training", "", "Overrides of KeyTraining, e.g. learning_rate=0.001."
)
_ATTACK = flags.DEFINE_string(
    "attack", "", "Overrides of ClientGan, e.g. generator_steps=20,stop_share=0.5."
)
_GENERATOR = flags.DEFINE_string(
    "generator", "", "Overrides of GeneratorSettings, e.g. optimizer=adam."
)
_GEOMETRY = flags.DEFINE_string(
    "geometry", "", "Overrides of Geometry, for keys alone, e.g. trials=100."
)
_SNAPSHOT_EVERY = flags.DEFINE_integer(
    "snapshot_every", 10, "Rounds between two looks at the generators.", lower_bound=1
)


def main(argv: list[str]) -> None:
    """Reads the flags, runs the experiment, writes and announces the report."""
    del argv
    started = time.monotonic()
    threads = common_flags.start("runs/keys")
    settings = _settings()
    _check_held_out(settings.study)
    data = None if settings.study in _WITHOUT_DATA else _data(settings.seed)
    # What cannot be built must not leave a run directory behind.
    experiment = key_protected_program.build_experiment(settings, data)
    with RunDirectory.open(
        common_flags.OUTPUT_DIR.value, _config(settings, threads), volatile=["data_dir"]
    ) as directory:
        clock = RunClock(directory, started)
        common_flags.use_runtime(threads)
        with Progress(settings.rounds, "class keys") as progress:
            states = asyncio.run(
                key_protected_program.run(experiment, directory, progress)
            )
        evaluation = key_protected_evaluation.evaluate(
            experiment, states, directory, clock
        )
        finding = key_protected_report.write_report(experiment, evaluation, directory)
        print(finding)
        print(f"Report: {directory.report}")


def _settings() -> key_protected_program.Settings:
    def build(cls, flag):
        return cls(**parse(cls, flag.value, flag=flag.name))

    study, dimensions = _STUDY.value, integers(_DIMENSIONS)
    attack = parse(
        ClientGan, _ATTACK.value, flag=_ATTACK.name, given=FIXED_ATTACK_FIELDS
    )
    return key_protected_program.Settings(
        study=study,
        rounds=len(dimensions) if study in _WITHOUT_DATA else _ROUNDS.value,
        seed=common_flags.SEED.value,
        dimensions=dimensions,
        keys=build(KeySettings, _KEYS),
        training=build(KeyTraining, _TRAINING),
        guesses=parse_guesses(_GUESSES.value, _search()),
        controls=_CONTROLS.value,
        own_controls=_OWN_CONTROLS.value,
        attack=attack,
        generator=build(client_gan_program.GeneratorSettings, _GENERATOR),
        geometry=build(Geometry, _GEOMETRY),
        snapshot_every=_SNAPSHOT_EVERY.value,
    )


def _search() -> SearchTurns:
    return SearchTurns(**parse(SearchTurns, _SEARCH.value, flag=_SEARCH.name))


def _check_held_out(study: Study) -> None:
    held_out = _HELD_OUT_PER_CLASS.value
    if held_out is not None and study is not Study.ACCURACY:
        raise InputError(
            f"--held_out_per_class is {held_out} with --study={study.value}: expected "
            "--study=accuracy, as attacks need a judge, and keys alone no images; "
            "leave it out"
        )


def _data(seed: int) -> Data:
    return load_data(
        _DATASET.value,
        data_dir=common_flags.DATA_DIR.value,
        per_class=_PER_CLASS.value,
        participants=_PARTICIPANTS.value,
        adversaries=integers(_ADVERSARIES),
        targets=integers(_TARGETS),
        seed=seed,
        held_out_per_class=_HELD_OUT_PER_CLASS.value,
        all_may_attack=True,
    )


def _config(settings: key_protected_program.Settings, threads: int) -> dict:
    """Every flag, with settings spelled out: defaults are part of a run's identity."""
    # Left out where they change nothing, so that older runs can be gone on with.
    later = {
        "held_out_per_class": _HELD_OUT_PER_CLASS.value,
        "own_controls": settings.own_controls or None,
    }
    chosen = {name: value for name, value in later.items() if value is not None}
    return (
        common_flags.config(threads)
        | chosen
        | {
            "experiment": "key_protected",
            "study": settings.study.value,
            "dataset": _DATASET.value,
            "rounds": _ROUNDS.value,
            "per_class": _PER_CLASS.value,
            "participants": _PARTICIPANTS.value,
            "adversaries": integers(_ADVERSARIES),
            "targets": integers(_TARGETS),
            "dimensions": list(settings.dimensions),
            "guesses": [guess.name for guess in settings.guesses],
            "search": plain(_search()),
            "controls": settings.controls,
            "keys": plain(settings.keys),
            "training": plain(settings.training),
            "attack": client_gan_program.attack_config(settings.attack),
            "generator": plain(settings.generator),
            "geometry": plain(settings.geometry),
            "snapshot_every": settings.snapshot_every,
        }
    )


if __name__ == "__main__":
    cli.run_main(main)
