"""The report of a run on key protection: pictures and figures of every guess."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import key_comparison
from experiments.key_guesses import KNOWN
from experiments.key_protected_evaluation import Evaluation, participant_accuracies
from experiments.key_protected_program import (
    Data,
    Experiment,
    Study,
)
from experiments.report_parts import figures_section, metrics_rows, nouns_of, series_of
from tff_leak.metrics.similarity import nearest
from tff_leak.report import figures, html
from tff_leak.runtime import snapshots
from tff_leak.runtime.run_directory import RunDirectory

_SHOWN = 12
_COLUMNS = 20
# From this share on the judge names a class for most of an adversary's pictures.
_MOST = 0.5


def write_report(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> str:
    """Writes figures and `report.html`; returns the finding in one sentence."""
    study = experiment.settings.study
    write = {
        Study.ATTACK: _attack_report,
        Study.ACCURACY: _accuracy_report,
    }.get(study, _keys_report)
    report = write(experiment, evaluation, directory)
    html.write(report, directory.report)
    return report.verdict.split("\n\n")[0]


def _attack_report(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> html.Report:
    data, attacks = experiment.data, evaluation.summary["attacks"]
    first = _strongest(attacks)
    nouns = nouns_of(data.source)
    steps = first["generator_steps"]
    text, kind = html.verdict(first["pooled"], nouns=nouns, steps=steps)
    opening, *rest = text.split("\n\n")
    finding = f"{opening} {_which(attacks, first)}"
    unscored = _of_other_adversaries(attacks, nouns[0])
    if unscored:
        finding = f"{finding} {unscored}"
        kind = "partial" if kind == "none" else kind
    sections = [
        _overview(experiment, evaluation, directory),
        key_comparison.pictures_compared(attacks, directory),
        *(_pictures(experiment, evaluation, one, directory) for one in attacks),
        key_comparison.rounds_compared(attacks),
        _over_rounds(experiment, evaluation, directory),
        key_comparison.keys_compared(attacks),
        *(_all_figures(attack, nouns[0]) for attack in attacks),
        _every_picture(experiment, evaluation),
    ]
    return html.Report(
        title=f"Class keys under attack on {_name(data)}",
        verdict="\n\n".join([finding, *rest]),
        verdict_good=kind,
        facts=_attack_facts(evaluation.summary, first),
        sections=sections,
        configuration=directory.config,
        scores=html.scores(first["pooled"]),
    )


def _all_figures(attack: Mapping[str, Any], noun: str) -> html.Section:
    section = figures_section(attack, noun)
    title = f"All figures: {key_comparison.title(attack)}"
    return html.Section(title, section.text, tables=section.tables)


def _strongest(attacks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The attack that reached most, and then has the largest share of the judge.

    Of those whose key does not come from the true one; where there is none, of all. A
    verdict on another one would call a defence good that one of them broke.
    """
    unaided = [attack for attack in attacks if _is_unaided(attack)]

    def strength(attack):
        reached, _ = key_comparison.reached(attack)
        return reached, attack["pooled"]["attack"]["judge_share"]

    return max(unaided or attacks, key=strength)


def _which(attacks: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> str:
    """Whose the verdict is, in a sentence."""
    if _is_unaided(first):
        reached, pairs = key_comparison.reached(first)
        return (
            "This is the strongest of the attacks that were not told of the key: "
            f"{key_comparison.title(first)}. It reached {reached} of {pairs} pairs of "
            "an adversary and a class."
        )
    told = f"told of the key, or of one near it: {key_comparison.title(first)}."
    if len(attacks) == 1:
        return f"It was {told}"
    return f"This is the strongest of {len(attacks)}, all {told}"


def _of_other_adversaries(attacks: Sequence[Mapping[str, Any]], noun: str) -> str:
    """What attacks without the key show of other adversaries, whom no score counts.

    Beside somebody honest other adversaries keep their data in the control, so that
    there is none of their classes; that the pictures show one is a leak all the same.

    Returns:
      A sentence on the attack for which the judge names such a class most; empty where
      it does so for less than `_MOST` of an adversary's pictures.
    """
    named = [
        (attack["elsewhere"]["unscored"], attack)
        for attack in attacks
        if _is_unaided(attack) and attack["elsewhere"]["unscored"] is not None
    ]
    worst = max(named, key=lambda one: one[0]["judge_share"], default=None)
    if worst is None or worst[0]["judge_share"] < _MOST:
        return ""
    found, attack = worst
    return (
        f"But the judge takes {found['judge_share']:.0%} of the pictures of adversary "
        f"{found['adversary']} for the {noun} {found['class']}, which another "
        f"adversary holds and no score counts ({key_comparison.title(attack)})."
    )


def _is_unaided(attack: Mapping[str, Any]) -> bool:
    return attack["guess"] != KNOWN and attack["distance"] is None


def _attack_facts(
    summary: Mapping[str, Any], first: Mapping[str, Any]
) -> list[tuple[str, object]]:
    return [
        ("recovered", first["pooled"]["recovered"]),
        ("judge share", first["pooled"]["attack"]["judge_share"]),
        ("accuracy, all class keys", first["task_accuracy"]),
        ("accuracy, keys for fakes as well", first["task_accuracy_with_fakes"]),
        ("accuracy, a participant's own keys", first["own_accuracy"]),
        ("judge's accuracy", summary["judge_accuracy"]),
        ("rounds", summary["rounds"]),
        ("seed", summary["seed"]),
    ]


def _overview(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> html.Section:
    """The first sample of each attack, as in the paper's figures."""
    attacks = evaluation.summary["attacks"][:_COLUMNS]
    images, found, names = [], [], []
    for attack in attacks:
        one = attack["targets"][0]
        kept = evaluation.drawn[attack["arm"]][one["adversary"]][:1]
        images.append(kept)
        found.append(_nearest_private(experiment.data, evaluation, one["target"], kept))
        names.append(f"{len(names) + 1}: {key_comparison.title(attack)}")
    drawn = figures.reconstruction_grid(
        np.concatenate(images),
        np.concatenate(found),
        columns=len(images),
        column_names=[str(number + 1) for number in range(len(names))],
        window=evaluation.window,
    )
    picture = figures.save(drawn, directory.figures / "attack_all.png")
    caption = f"Nearest private image above each sample. {'; '.join(names)}"
    text = "The first sample of each attack's generator, not selected."
    pictures = [(caption, picture)]
    return html.Section("Every attack", text, figures=pictures, wide=True)


def _pictures(
    experiment: Experiment,
    evaluation: Evaluation,
    attack: Mapping[str, Any],
    directory: RunDirectory,
) -> html.Section:
    """The first samples of an attack and its control, nearest private images above."""
    controls = experiment.federations[attack["arm"]].controls
    pictures = []
    for number, target in _shown_by(attack):
        name = experiment.data.source.class_names[target]
        for arm in filter(None, (attack["arm"], controls.get(number))):
            images = evaluation.drawn[arm][number][:_SHOWN]
            drawn = _grid(experiment.data, evaluation, target, images)
            path = directory.figures / f"{arm}_{number}_{target}.png"
            picture = figures.save(drawn, path)
            kind = "attack" if arm == attack["arm"] else "control"
            caption = f"{kind}, adversary {number}, scored as {name}"
            pictures.append((caption, picture))
    text = (
        "Lower rows: the first samples that each adversary's generator drew, not "
        "selected. Upper rows: the victim's image nearest to each in L1; in the "
        "control the image that the victim would have held. Without a target it is of "
        "the class that this adversary's pictures show best."
    )
    return html.Section(key_comparison.title(attack), text, figures=pictures, wide=True)


def _every_picture(experiment: Experiment, evaluation: Evaluation) -> html.Section:
    """All samples of all adversaries, so that none is hidden."""
    pictures = []
    for attack in evaluation.summary["attacks"]:
        for number, target in _shown_by(attack):
            images = evaluation.drawn[attack["arm"]][number]
            for start in range(0, len(images), _COLUMNS):
                shown = images[start : start + _COLUMNS]
                drawn = _grid(experiment.data, evaluation, target, shown)
                whose = f"{key_comparison.title(attack)}, adversary {number}"
                caption = f"{whose}, samples from {start + 1}"
                pictures.append((caption, figures.png(drawn)))
    text = "All samples that the figures were computed from, in the order drawn."
    return html.Section("Every reconstruction", text, figures=pictures, wide=True)


def _shown_by(attack: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Each adversary, and its target or the class that its pictures show best."""
    if attack["largest"]:
        return [(one["adversary"], one["class"]) for one in attack["by_adversary"]]
    return [(one["adversary"], one["target"]) for one in attack["targets"]]


def _grid(data: Data, evaluation: Evaluation, target: int, images: np.ndarray) -> Any:
    found = _nearest_private(data, evaluation, target, images)
    return figures.reconstruction_grid(
        images, found, columns=len(images), window=evaluation.window
    )


def _nearest_private(
    data: Data, evaluation: Evaluation, target: int, images: np.ndarray
) -> np.ndarray:
    """For each image the victim's image of the class that is nearest to it in L1."""
    victim = data.federation.data[data.federation.victim(target)]
    private = victim.of_class(target).images
    return private[nearest(images, private, window=evaluation.window)[1]]


def _over_rounds(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> html.Section:
    rows = metrics_rows(directory)
    arms = list(experiment.federations)
    drawings = {
        metric: figures.curves(series_of(rows, arms, metric), label)
        for metric, label in (
            ("task_accuracy", "accuracy, all class keys"),
            ("own_accuracy_least", "least accuracy, own keys"),
            ("local_accuracy_least", "least accuracy, local data, own keys"),
            ("attack_loss", "-score of fakes, guessed key"),
        )
        if series_of(rows, arms, metric)
    }
    taken = snapshots.load_snapshots(directory)
    chosen = list(taken)[:: max(1, len(taken) // 10)]
    for attack in evaluation.summary["attacks"]:
        number = attack["targets"][0]["adversary"]
        strip = np.stack([taken[r][f"{attack['arm']}/{number}"][:3] for r in chosen])
        drawings[f"progress_{attack['arm']}"] = figures.progress_strip(
            chosen, strip, window=evaluation.window
        )
    pictures = []
    for name, drawn in drawings.items():
        picture = figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((name.replace("_", " "), picture))
    text = "In a round every participant has one turn. Keys are the evaluator's only."
    return html.Section("Over the rounds", text, figures=pictures)


def _accuracy_report(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> html.Report:
    found = evaluation.summary["accuracy"]
    pictures = _accuracy_curves(experiment, directory)
    text = (
        "Mean participant accuracy: of each participant's model right after its turn, "
        "on at most 2,000 held-out images of all classes, over all keys (Eq. 4), which "
        "are released to this evaluator alone. Of all tests: the same after the last "
        "turn of each, on all of them. Own keys: on a participant's own classes."
    )
    if "participant_accuracy_own_moments" in found[0]:
        text += (
            " Behind the fixed layer these pictures are normalised by the moments of "
            "all classes together, with which no participant trains. By own moments: "
            "each participant's model normalises by those of its own pictures."
        )
    best = max(found, key=lambda one: one["participant_accuracy"])
    verdict = (
        f"Mean participant accuracy {best['participant_accuracy']:.4f} at d = "
        f"{best['dimension']}, the best of {len(found)} key sizes. There is no attack "
        "in this run."
    )
    return html.Report(
        title=f"Accuracy with class keys on {_name(experiment.data)}",
        verdict=verdict,
        verdict_good="undefined",
        facts=[(name, evaluation.summary[name]) for name in ("rounds", "seed")],
        sections=[
            html.Section(
                "Accuracy", text, figures=pictures, tables=[_accuracy_table(found)]
            ),
            _scores_section(found),
        ],
        configuration=directory.config,
    )


def _accuracy_curves(
    experiment: Experiment, directory: RunDirectory
) -> list[tuple[str, bytes]]:
    """Figure 2, and the same over own keys: a curve a key size."""
    rows = metrics_rows(directory)
    rounds = [int(row["round"]) for row in rows]
    arms = experiment.federations
    all_keys = {
        f"d = {arm.dimension}": (rounds, participant_accuracies(directory, name))
        for name, arm in arms.items()
    }
    own = {
        f"d = {arms[name].dimension}": curve
        for name, curve in series_of(rows, arms, "own_accuracy").items()
    }
    pictures = []
    for name, series, label in (
        ("participant_accuracy", all_keys, "mean participant accuracy"),
        ("own_accuracy", own, "accuracy over a participant's own keys"),
    ):
        drawn = figures.curves(series, label, xlabel="epoch")
        picture = figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((label, picture))
    return pictures


def _accuracy_table(found: Sequence[Mapping[str, Any]]) -> tuple:
    keys = {
        "d": "dimension",
        "mean participant accuracy": "participant_accuracy",
        "of all tests": "participant_accuracy_all_tests",
        "tests": "all_tests",
        "best": "best_participant_accuracy",
        "in epoch": "best_round",
        "own keys": "own_accuracy",
        "own keys, least": "own_accuracy_least",
    }
    if "participant_accuracy_own_moments" in found[0]:
        keys["of all tests, by own moments"] = "participant_accuracy_own_moments"
        keys["own keys, by own moments"] = "own_accuracy_own_moments"
    rows = [[one[key] for key in keys.values()] for one in found]
    return ("After the last epoch", list(keys), rows)


def _scores_section(found: Sequence[Mapping[str, Any]]) -> html.Section:
    """Section 5.5: what a class scores with its keys, of which shared ones have two."""
    rows = [
        [
            one["dimension"],
            row["class"],
            ", ".join(f"{value:.2f}" for value in row["own"]),
            row["others"],
        ]
        for one in found
        for row in one["class_scores"]
    ]
    text = (
        "Mean scores of a class's held-out images after the last epoch, with each key "
        "of the class (a class that participants share has several) and, the largest "
        "in absolute value, with a key of another class."
    )
    header = ["d", "class", "with its keys", "with another class's"]
    return html.Section("Scores", text, tables=[("Mean scores", header, rows)])


def _keys_report(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> html.Report:
    found = evaluation.summary["keys"]
    names = [name for name in found[0] if name not in ("dimension", "distribution")]
    pictures = []
    for name in names:
        series: dict[str, tuple[list, list]] = {}
        for one in found:
            xs, ys = series.setdefault(one["distribution"], ([], []))
            xs.append(math.log2(one["dimension"]))
            ys.append(one[name])
        label = name.replace("_", " ")
        drawn = figures.curves(series, label, xlabel="log2 of the dimension")
        picture = figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((label, picture))
    shared = experiment.settings.study is Study.SHARED_CLASSES
    first, last = found[0], found[-1]
    figure = "other_largest" if shared else "largest"
    what = "a shared class's embedding and another key" if shared else "two random keys"
    verdict = (
        f"Largest product of {what}: {first[figure]:.3f} at d = {first['dimension']}, "
        f"{last[figure]:.3f} at d = {last['dimension']}."
    )
    header = ["d", "distribution", *(name.replace("_", " ") for name in names)]
    rows = [list(one.values()) for one in found]
    return html.Report(
        title="Keys of shared classes" if shared else "Products of random keys",
        verdict=f"{verdict} No model and no data: keys alone.",
        verdict_good="undefined",
        facts=[("seed", evaluation.summary["seed"])],
        sections=[
            html.Section(
                "Over the dimension",
                "Of all trials of a dimension and distribution.",
                figures=pictures,
                tables=[("All figures", header, rows)],
            )
        ],
        configuration=directory.config,
    )


def _name(data: Data) -> str:
    return data.source.name + (" (synthetic pictures)" if data.source.synthetic else "")
