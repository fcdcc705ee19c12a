"""What finished runs of "Key protected classification" show, as `summary.json`.

An attack with a random key has no target. Its score is then the largest over the
classes that honest participants hold, and so is its control's: the largest of several
is above their mean even where nothing leaked. Classes that other adversaries hold are
victims', too: of those the judge's share is told (`elsewhere`), without a control of
its own: in the control of an attack without a target only honest participants hold
nothing, and other adversaries' classes are still trained on. Where everybody attacks
all others' classes count, and in an adversary's control nobody else has data.
"""

import csv
import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import key_snapshots
from experiments.client_gan_program import identity_of
from experiments.dssgd_arm import ArmState, mean_over_rounds
from experiments.evaluation import build_judge
from experiments.federation import Federation
from experiments.key_federation import overlap
from experiments.key_own_moments import accuracy_by_own_moments
from experiments.key_protected_program import (
    Data,
    Experiment,
    KeyArm,
    Study,
    draw,
    unknown_classes,
)
from experiments.report_parts import metrics_rows, series_of
from experiments.run_clock import RunClock
from tff_leak.attacks.client_transform import only_row
from tff_leak.defences.key_protection import Normalisation
from tff_leak.metrics import score
from tff_leak.metrics.judge import Judge
from tff_leak.metrics.reconstruction import TargetInputs, evaluate_targets
from tff_leak.runtime.reconstructions import write_reconstructions
from tff_leak.runtime.run_directory import RunDirectory, atomic_write_json

FINAL_SAMPLES = 200
TRAINED = 0.97
"""Accuracy of everybody at which the paper stops (figure 6), there on local data."""


class Entry(NamedTuple):
    """One adversary's pictures beside one class."""

    adversary: int
    target: int


class _Instruments(NamedTuple):
    """What a run's pictures are measured with."""

    judge: Judge
    seed: int
    kept: key_snapshots.Snapshots

    def evaluate(self, inputs: Sequence[TargetInputs]) -> dict[str, Any]:
        """The figures of `evaluate_targets`."""
        return evaluate_targets(
            inputs,
            self.judge,
            foreground=self.kept.foreground,
            window=self.kept.window,
            seed=self.seed,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a finished run shows.

    Attributes:
      summary: the figures, as in `summary.json`.
      window: leading rows and columns that the model can see; None without an attack.
      drawn: final samples by arm and adversary, `[FINAL_SAMPLES, H, W, C]`.
    """

    summary: Mapping[str, Any]
    window: tuple[int, int] | None = None
    drawn: Mapping[str, Mapping[int, np.ndarray]] = dataclasses.field(
        default_factory=dict
    )


def evaluate(
    experiment: Experiment,
    states: Mapping[str, Any],
    directory: RunDirectory,
    clock: RunClock,
) -> Evaluation:
    """Measures a finished run and writes `summary.json`.

    Args:
      experiment: the run.
      states: final states by arm.
      directory: the run directory; after an attack it gets `reconstructions.npz`.
      clock: of the run.
    """
    settings, data = experiment.settings, experiment.data
    summary = {
        "experiment": "key_protected",
        "study": settings.study.value,
        "dataset": data.source.name if data else "none",
        "synthetic": bool(data and data.source.synthetic),
        "seed": settings.seed,
        "rounds": settings.rounds,
        "seconds": clock.seconds(),
    }
    if settings.study is Study.ATTACK:
        evaluation = _evaluate_attacks(experiment, states, directory, summary)
    elif settings.study is Study.ACCURACY:
        found = [
            _accuracy(arm, states[arm.name], experiment, directory)
            for arm in experiment.federations.values()
        ]
        evaluation = Evaluation(summary | {"accuracy": found})
    else:
        evaluation = Evaluation(summary | {"keys": _keys(directory)})
    atomic_write_json(directory.summary, evaluation.summary)
    return evaluation


def participant_accuracies(directory: RunDirectory, arm: str) -> list[float]:
    """Mean participant accuracy after each round (figure 2).

    Everything is shared, so a participant's model right after its turn is the server's:
    the mean is over the accuracies after the turns of a round. With more turns than are
    measured it is the accuracy at the round's end.
    """
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    turns = [name for name in rows[0] if name.startswith(f"{arm}/task_accuracy_turn_")]
    columns = turns or [f"{arm}/task_accuracy"]
    return [float(np.mean([float(row[name]) for name in columns])) for row in rows]


def _accuracy(
    arm: KeyArm, state: ArmState, experiment: Experiment, directory: RunDirectory
) -> dict[str, Any]:
    """Figures of one dimension without an attack.

    The curve, and the best of it, are of at most 2,000 held-out pictures. The last
    round's accuracy is measured on all of the reference as well, and where any arm
    normalises over the batch also by participants' own moments.
    """
    data, settings = experiment.data, experiment.settings
    curve = participant_accuracies(directory, arm.name)
    held = sorted({label for table in arm.evaluator.tables for label in table.classes})
    tests = data.reference.of_classes(held)
    own_moments = {}
    if settings.keys.normalisation is Normalisation.BATCH:
        own_moments = accuracy_by_own_moments(
            arm.evaluator,
            state,
            data.federation.data,
            tests,
            source=data.source,
            settings=settings.keys,
            seed=settings.seed,
        )
    return {
        "dimension": arm.dimension,
        "participant_accuracy": curve[-1],
        "best_participant_accuracy": max(curve),
        "best_round": curve.index(max(curve)) + 1,
        "all_tests": len(tests),
        "participant_accuracy_all_tests": arm.evaluator.participants_accuracy(
            state, tests
        ),
        **own_moments,
        "task_accuracy": arm.evaluator.accuracy(state.server),
        **arm.evaluator.measure(state),
        "class_scores": arm.evaluator.class_scores(state.server),
    }


def _keys(directory: RunDirectory) -> list[dict[str, Any]]:
    """Figures of keys alone, a row a dimension and distribution."""
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    names = list(dict.fromkeys(key.partition("/")[0] for key in rows[0] if "/" in key))
    for row, name in itertools.product(rows, names):
        figures = {
            key.partition("/")[2]: float(value)
            for key, value in row.items()
            if key.startswith(f"{name}/")
        }
        dimension = int(figures.pop("dimension"))
        found.append({"dimension": dimension, "distribution": name, **figures})
    return found


def _evaluate_attacks(
    experiment: Experiment,
    states: Mapping[str, ArmState],
    directory: RunDirectory,
    summary: Mapping[str, Any],
) -> Evaluation:
    settings, data = experiment.settings, experiment.data
    federations = experiment.federations
    network = next(iter(federations.values())).evaluator.network
    judge, window = build_judge(network, data.source, data.judge, seed=settings.seed)
    drawn = {
        name: draw(experiment, arm, states[name], FINAL_SAMPLES, settings.rounds + 1)
        for name, arm in federations.items()
    }
    kept = key_snapshots.load(
        directory,
        settings.rounds,
        foreground=data.source.foreground,
        window=window,
    )
    instruments = _Instruments(judge, settings.seed, kept)
    steps = mean_over_rounds(directory.metrics_csv, "generator_steps")
    trained = _first_rounds(federations, "own_accuracy_least", directory)
    trained_locally = _first_rounds(federations, "local_accuracy_least", directory)
    stops = _stop_rounds(experiment, trained, kept)
    attacks = []
    for name, stop in stops.items():
        arm = federations[name]
        figures = _score(data, arm, drawn, instruments, stop)
        attacks.append(
            _description(arm, states[name], experiment)
            | {
                "task_accuracy": arm.evaluator.accuracy(states[name].server),
                "task_accuracy_with_fakes": arm.evaluator.accuracy_with_fakes(
                    states[name].server
                ),
                **arm.evaluator.measure(states[name]),
                "generator_steps": steps[name],
                "control_generator_steps": _mean_steps(arm, steps),
                "trained_round": trained[name],
                **_if_measured("locally_trained_round", trained_locally, name),
                "stop_round": stop,
                **figures,
            }
        )
    _write_reconstructions(data, attacks, drawn, settings.rounds, directory)
    more = {
        "judge_accuracy": judge.accuracy(data.reference),
        "visible_window": list(window),
        "attacks": attacks,
    }
    return Evaluation({**summary, **more}, window, drawn)


def _stop_rounds(
    experiment: Experiment,
    trained: Mapping[str, int | None],
    kept: key_snapshots.Snapshots,
) -> dict[str, int | None]:
    """The snapshot of each attack that stands for the end of the paper's training.

    All attacks of one key size have the same, so that they can be compared: the first
    from the round on in which the last of them is trained, which may be many rounds
    after others were. One that never is has none, and is not waited for.
    """
    attacks = [arm for arm in experiment.federations.values() if not arm.is_control]
    latest: dict[int, int] = {}
    for arm in attacks:
        known = latest.get(arm.dimension, 0)
        latest[arm.dimension] = max(known, trained[arm.name] or 0)
    return {
        arm.name: None
        if trained[arm.name] is None
        else kept.first_from(latest[arm.dimension])
        for arm in attacks
    }


def _mean_steps(arm: KeyArm, steps: Mapping[str, float]) -> float | None:
    """A turn's generator steps in an arm's controls; None without controls."""
    found = [steps[name] for name in sorted(set(arm.controls.values()))]
    return float(np.mean(found)) if found else None


def _control_pictures(
    arm: KeyArm, drawn: Mapping[str, Mapping[int, np.ndarray]]
) -> dict[int, np.ndarray]:
    """Each adversary's pictures in its control."""
    return {number: drawn[name][number] for number, name in arm.controls.items()}


def _description(
    arm: KeyArm, state: ArmState, experiment: Experiment
) -> dict[str, Any]:
    """What an adversary did for its key, and how near it came to one."""
    guess, federation = arm.guess, experiment.data.federation
    final = [
        only_row(state.clients[number].private).target
        for number in federation.adversaries
    ]
    effort = None
    if guess.search is not None:
        left = max(experiment.settings.rounds - guess.search.first_turn, 0)
        effort = guess.search.effort * min(guess.search.turns, left)
    return {
        "arm": arm.name,
        "dimension": arm.dimension,
        "guess": guess.name,
        "kind": guess.kind.value,
        "distance": guess.distance,
        "effort": effort,
        "overlap": [
            {"adversary": number}
            | overlap(np.asarray(key), arm.evaluator.tables, federation.victims, number)
            for number, key in zip(federation.adversaries, final, strict=True)
        ],
    }


def _score(
    data: Data,
    arm: KeyArm,
    drawn: Mapping[str, Mapping[int, np.ndarray]],
    instruments: _Instruments,
    stop: int | None,
) -> dict[str, Any]:
    """The figures of one attack: of its targets, or of the class that it shows best.

    `stop` is the round of the snapshot that stands for the end of the paper's training;
    None: there is none.
    """
    federation, window = data.federation, instruments.kept.window
    targets = zip(federation.adversaries, federation.targets, strict=True)
    pairs = targets if arm.guess.aimed else unknown_classes(federation)
    entries = [Entry(*pair) for pair in pairs]
    controls = _control_pictures(arm, drawn)
    inputs = [
        _inputs(data, entry, drawn[arm.name][entry.adversary], controls)
        for entry in entries
    ]

    def with_snapshots(scored):
        return [
            _with_snapshots(figures, arm, entry, shown.private, instruments, stop)
            for figures, entry, shown in zip(scored, entries, inputs, strict=True)
        ]

    if arm.guess.aimed:
        found = instruments.evaluate(inputs)
        targets = with_snapshots(found["targets"])
        return {
            "targets": targets,
            "pooled": found["pooled"] | key_snapshots.pooled(found["pooled"], targets),
            "largest": None,
            "by_adversary": [],
            "identity": identity_of(data, inputs, window),
        }
    # Each by itself: pooled figures of the best are then of the same draws.
    apart = [instruments.evaluate([one]) for one in inputs]
    best, shown = _best_shown(with_snapshots([one["targets"][0] for one in apart]))
    named = functools.partial(_elsewhere, federation, judge=instruments.judge)
    return shown | {
        "pooled": apart[best]["pooled"],
        "elsewhere": {
            "attack": named(drawn[arm.name]),
            "control": named(controls),
            "unscored": named(drawn[arm.name], scored=entries),
        },
        "identity": _identity_of_best(data, inputs, shown["largest"], window),
    }


def _with_snapshots(
    figures: Mapping[str, Any],
    arm: KeyArm,
    entry: Entry,
    private: np.ndarray,
    instruments: _Instruments,
    stop: int | None,
) -> dict[str, Any]:
    """A target's figures with those of snapshots, and whose they are."""
    adversary, control = entry.adversary, arm.controls.get(entry.adversary)
    arms = {"attack": arm.name} | ({"control": control} if control else {})
    seen = (figures, private, arms, adversary, instruments.kept)
    late = key_snapshots.late_of_target(*seen)
    stopped = key_snapshots.stop_of_target(
        *seen, judge=instruments.judge, round_num=stop
    )
    return {**figures, **late, **stopped, "adversary": adversary}


def _best_shown(targets: Sequence[Mapping]) -> tuple[int, dict[str, Any]]:
    """Which class an attack without a target shows best, and the figures of it."""
    largest = {name: _largest(targets, name) for name in ("attack", "control")}
    # The one with the largest `recovered` need not be one that is reached.
    reached = sum(bool(one["reached"]["value"]) for one in targets)
    largest["attack"] |= {"reached_pairs": reached, "pairs": len(targets)}
    best = largest["attack"]["entry"]
    return best, {
        "targets": [targets[best]],
        "largest": largest,
        "by_adversary": _by_adversary(targets),
    }


def _identity_of_best(
    data: Data,
    inputs: Sequence[TargetInputs],
    largest: Mapping[str, Any],
    window: tuple[int, int],
) -> dict[str, Any] | None:
    """Whom faces show, of the attack's best class and of the control's own best."""
    identity = identity_of(data, [inputs[largest["attack"]["entry"]]], window)
    if identity and largest["control"]:
        of_control = identity_of(data, [inputs[largest["control"]["entry"]]], window)
        identity["pooled"]["control"] = of_control["pooled"]["control"]
    return identity


def _by_adversary(targets: Sequence[Mapping]) -> list[dict[str, Any]]:
    """What each adversary's pictures show best, with its `class` and figures."""
    found = []
    for number in dict.fromkeys(one["adversary"] for one in targets):
        best = _largest(
            [one for one in targets if one["adversary"] == number], "attack"
        )
        found.append({key: best[key] for key in best if key != "entry"})
    return found


def _elsewhere(
    federation: Federation,
    samples: Mapping[int, np.ndarray],
    *,
    judge: Judge,
    scored: Collection[tuple[int, int]] = (),
) -> dict[str, Any] | None:
    """What the judge says that adversaries' pictures show of others' classes.

    Args:
      federation: of the run.
      samples: pictures by adversary, `[n, H, W, C]`.
      judge: of the run.
      scored: adversaries and classes to leave out, as they have scores.

    Returns:
      The largest share of one adversary's pictures that the judge takes for one class
      that it does not hold itself, with `adversary` and `class`; None without pictures
      or such classes.
    """
    rows = []
    for adversary, images in samples.items():
        own = set(federation.data[adversary].labels.tolist())
        others = sorted(
            {int(label) for part in federation.data for label in part.labels} - own
        )
        # The last answer is that it shows none of the classes.
        answers = judge.all_probabilities(judge.features(images)).argmax(axis=1)
        rows += [
            {
                "adversary": adversary,
                "class": label,
                "judge_share": float(np.mean(answers == label)),
            }
            for label in others
            if (adversary, label) not in scored
        ]
    return max(rows, key=lambda row: row["judge_share"], default=None)


def _first_rounds(
    arms: Collection[str], metric: str, directory: RunDirectory
) -> dict[str, int | None]:
    """By arm that has the metric, the first round after which it is at `TRAINED`.

    Without arms that have it of some rounds only.
    """
    curves = series_of(metrics_rows(directory), arms, metric)
    return {
        name: _first_round(rounds, values)
        for name, (rounds, values) in curves.items()
        if not np.isnan(values).any()  # Rounds of before it was measured: unknown.
    }


def _if_measured(
    figure: str, found: Mapping[str, int | None], arm: str
) -> dict[str, int | None]:
    """The figure of an arm; empty where older metrics do not have it."""
    return {figure: found[arm]} if arm in found else {}


def _first_round(rounds: Sequence[int], accuracies: Sequence[float]) -> int | None:
    """The first round after which everybody is trained; None: there was none."""
    reached = (
        number
        for number, accuracy in zip(rounds, accuracies, strict=True)
        if accuracy >= TRAINED
    )
    return next(reached, None)


def _largest(targets: Sequence[Mapping], name: str) -> dict[str, Any] | None:
    """The class that a set of pictures shows best, by `score.common_floor`."""
    if targets[0][name] is None:
        return None
    rows = []
    for number, one in enumerate(targets):
        floor = score.common_floor(one["floor"])
        found = score.recovered(one[name]["ssim"], floor, one["reference"]["ssim"])
        rows.append(
            {
                "entry": number,
                "class": one["target"],
                "adversary": one["adversary"],
                "recovered": found,
                "ssim": one[name]["ssim"],
                "judge_share": one[name]["judge_share"],
            }
        )

    def order(row):
        known = row["recovered"] is not None
        return known, row["recovered"] if known else row["judge_share"]

    best = max(rows, key=order)
    return best | {
        "judge_share_largest": max(row["judge_share"] for row in rows),
        **key_snapshots.largest(targets, name),
    }


def _inputs(
    data: Data,
    entry: Entry,
    attack: np.ndarray,
    controls: Mapping[int, np.ndarray],
) -> TargetInputs:
    federation, target = data.federation, entry.target
    victim = federation.data[federation.victim(target)]
    return TargetInputs(
        target=target,
        attack=attack,
        control=controls.get(entry.adversary, attack[:0]),
        private=victim.of_class(target).images,
        others=federation.others_images(target),
        heldout=data.reference,
    )


def _write_reconstructions(
    data: Data,
    attacks: Sequence[Mapping],
    drawn: Mapping[str, Mapping[int, np.ndarray]],
    rounds: int,
    directory: RunDirectory,
) -> None:
    """All attacks' samples, in the order of the summary and of adversaries.

    Without a target an adversary's stand for the class that they show best.
    """
    images, labels = [], []
    for attack in attacks:
        claimed = {one["adversary"]: one["target"] for one in attack["targets"]}
        for one in attack["by_adversary"]:
            claimed[one["adversary"]] = one["class"]
        for number, samples in drawn[attack["arm"]].items():
            if number in claimed:  # One that holds all classes itself finds none.
                images.append(samples)
                labels.append(claimed[number])
    counts = [len(part) for part in images]
    victims = [data.federation.victim(label) for label in labels]
    write_reconstructions(
        directory.reconstructions,
        images=np.concatenate(images),
        labels=np.repeat(labels, counts).astype(np.int32),
        clients=np.repeat(victims, counts).astype(np.int32),
        round=rounds,
    )
