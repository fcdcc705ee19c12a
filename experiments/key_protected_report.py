"""The report of a run on key protection: pictures and figures of every guess."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.key_guesses import KNOWN
from experiments.key_protected_evaluation import Evaluation, participant_accuracies
from experiments.key_protected_program import Data, Experiment, Study
from experiments.report_parts import figures_section, metrics_rows, nouns_of, series_of
from tff_leak.metrics.similarity import nearest
from tff_leak.report import figures, html
from tff_leak.runtime import snapshots
from tff_leak.runtime.run_directory import RunDirectory

_SHOWN = 12
_COLUMNS = 20

_LARGEST_TEXT = (
    "Without the target's key an adversary has no target: its pictures count for "
    "whichever class of the honest participants they show best, and so do the "
    "control's, in which nobody honest holds a class. Where everybody attacks, the "
    "classes of all others count, and in the control of one it alone attacks and has "
    "data. Both are measured against the same floor, without the control in it."
)

_COMPARISON_TEXT = (
    "Known: the adversary has the target's key (the positive control). A number is "
    "the distance of its guess from that key. Best, ascent, embeddings, drift, "
    "weights and moments are searches with their effort a turn. Product with nearest "
    "key: of the first shown adversary's key with the nearest class key of honest "
    "participants (of others, where everybody attacks); with the next one: the "
    "largest with any other key; another attacker's: with the nearest class key of "
    "another adversary (its class). First round with all trained: that after which "
    "everybody has 97% on held-out pictures of its own classes, where the paper stops "
    "(on its local data); a later one may have less. All just trained: of the first "
    "pictures that were kept once this was so in every attack with keys of this size "
    "(40 of each adversary; 200 at the end). The generator rests in turns in which the "
    "model believes its pictures, so that attacks differ in steps. Judge share, any "
    "class: of the class that the judge names most among all that the adversary does "
    "not hold itself; of other adversaries' classes there is no control as long as "
    "somebody is honest: these keep theirs in the control. "
    "Reached, without a target: of all pairs of an adversary and a class that it does "
    "not hold, of honest participants (of others)."
)


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
    text, kind = html.verdict(first["pooled"], nouns=nouns)
    opening, *rest = text.split("\n\n")
    sections = [_overview(experiment, evaluation, directory)]
    sections.append(_comparison(attacks, directory))
    for attack in attacks:
        sections.append(_pictures(experiment, evaluation, attack, directory))
    sections.append(_over_rounds(experiment, evaluation, directory))
    for attack in attacks:
        section = figures_section(attack, nouns[0])
        title = f"All figures: {_title(attack)}"
        sections.append(html.Section(title, section.text, tables=section.tables))
    sections.append(_every_picture(experiment, evaluation))
    return html.Report(
        title=f"Class keys under attack on {_name(data)}",
        verdict="\n\n".join([f"{opening} {_which(attacks, first)}", *rest]),
        verdict_good=kind,
        facts=_attack_facts(evaluation.summary, first),
        sections=sections,
        configuration=directory.config,
        scores=html.scores(first["pooled"]),
    )


def _strongest(attacks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The attack that reached most, and then has the largest share of the judge.

    Of those whose key does not come from the true one; where there is none, of all. A
    verdict on another one would call a defence good that one of them broke.
    """
    unaided = [attack for attack in attacks if _is_unaided(attack)]

    def strength(attack):
        return _reached(attack)[0], attack["pooled"]["attack"]["judge_share"]

    return max(unaided or attacks, key=strength)


def _which(attacks: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> str:
    """Whose the verdict is, in a sentence."""
    if _is_unaided(first):
        reached, pairs = _reached(first)
        return (
            "This is the strongest of the attacks that were not told of the key: "
            f"{_title(first)}. It reached {reached} of {pairs} pairs of an adversary "
            "and a class."
        )
    told = f"told of the key, or of one near it: {_title(first)}."
    if len(attacks) == 1:
        return f"It was {told}"
    return f"This is the strongest of {len(attacks)}, all {told}"


def _is_unaided(attack: Mapping[str, Any]) -> bool:
    return attack["guess"] != KNOWN and attack["distance"] is None


def _attack_facts(
    summary: Mapping[str, Any], first: Mapping[str, Any]
) -> list[tuple[str, object]]:
    return [
        ("recovered", first["pooled"]["recovered"]),
        ("judge share", first["pooled"]["attack"]["judge_share"]),
        ("accuracy, all keys", first["task_accuracy"]),
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
        names.append(f"{len(names) + 1}: {_title(attack)}")
    drawn = figures.reconstruction_grid(
        np.concatenate(images),
        np.concatenate(found),
        columns=len(images),
        column_names=[str(number + 1) for number in range(len(names))],
        window=evaluation.window,
    )
    figures.save(drawn, directory.figures / "attack_all.png")
    caption = f"Nearest private image above each sample. {'; '.join(names)}"
    text = "The first sample of each attack's generator, not selected."
    pictures = [(caption, figures.png(drawn))]
    return html.Section("Every attack", text, figures=pictures, wide=True)


def _comparison(
    attacks: Sequence[Mapping[str, Any]], directory: RunDirectory
) -> html.Section:
    """All attacks in one table, and recovered over the distance or the effort."""
    header = ["attack", "class", "recovered", "reached", "judge share", "control's"]
    header += ["recovered, largest", "control's, largest", "product with nearest key"]
    header += ["with the next one", "another attacker's", "accuracy, all keys"]
    header += ["own keys", "first round with all trained"]
    header += ["recovered, last half of rounds", "control's"]
    header += ["all just trained: pictures of round"]
    header += ["recovered, all just trained", "control's"]
    header += ["judge share, all just trained", "control's"]
    header += ["generator's steps a turn", "judge share, any class"]
    if attacks[0]["identity"]:
        header += ["right person nearest", "control's"]
    rows = [_row(attack) for attack in attacks]
    pictures = []
    axes = {
        "distance": "distance of the guess",
        "effort": "effort, all turns of a search together",
    }
    for key, axis in axes.items():
        series = _recovered_over(attacks, key)
        if series:
            drawn = figures.curves(
                series,
                "recovered",
                xlabel=axis,
                levels={"floor": 0.0, "real pictures": 1.0},
                few=True,
                logarithmic=key == "effort",
            )
            figures.save(drawn, directory.figures / f"recovered_{key}.png")
            pictures.append((f"recovered over the {axis}", figures.png(drawn)))
    text = f"{_COMPARISON_TEXT} {_LARGEST_TEXT}"
    tables = [("Attacks", header, rows)]
    return html.Section("Guesses compared", text, figures=pictures, tables=tables)


def _row(attack: Mapping[str, Any]) -> list[object]:
    pooled, largest = attack["pooled"], attack["largest"]
    shown = attack["targets"][0]["adversary"]
    [near] = [one for one in attack["overlap"] if one["adversary"] == shown]
    control = pooled["control"]
    counted: list[object] = ["", ""]
    if largest:
        of_control = largest["control"]
        counted = [
            largest["attack"]["recovered"],
            of_control["recovered"] if of_control else "not run",
        ]
    return [
        _title(attack),
        ", ".join(str(one["target"]) for one in attack["targets"]),
        pooled["recovered"],
        "{} of {}".format(*_reached(attack)),
        pooled["attack"]["judge_share"],
        control["judge_share"] if control else "not run",
        *counted,
        near["product"],
        near["rival"],
        _fellow(near),
        attack["task_accuracy"],
        attack["own_accuracy"],
        attack["trained_round"] or "not yet",
        *_before_the_end(attack, "late_recovered"),
        attack["stop_round"] or "not yet",
        *_before_the_end(attack, "stop_recovered"),
        *_before_the_end(attack, "stop_judge_share"),
        attack["generator_steps"],
        *_elsewhere(attack),
        *_people(attack["identity"]),
    ]


def _fellow(near: Mapping[str, Any]) -> str:
    if near["fellow"] is None:
        return ""
    return "{product:.2f} ({class})".format(**near["fellow"])


def _before_the_end(attack: Mapping[str, Any], figure: str) -> list[object]:
    """A figure of snapshots (`key_snapshots`), and the control's."""
    largest = attack["largest"]
    if largest:
        ran = {name: one for name, one in largest.items() if one is not None}
        found = {name: one[figure] for name, one in ran.items()}
    else:
        found = attack["pooled"][figure]
    if figure.startswith("stop") and attack["stop_round"] is None:
        found = dict.fromkeys(attack["targets"][0]["late_ssim"], "not yet")
    return [found["attack"], found.get("control", "not run")]


def _reached(attack: Mapping[str, Any]) -> tuple[int, int]:
    """How many were reached of how many: targets, or pairs of adversary and class."""
    if attack["largest"]:
        best = attack["largest"]["attack"]
        return best["reached_pairs"], best["pairs"]
    return attack["pooled"]["reached_count"], len(attack["pooled"]["targets"])


def _elsewhere(attack: Mapping[str, Any]) -> list[object]:
    if not attack["largest"]:
        return [""]
    found, control = attack["elsewhere"]["attack"], attack["elsewhere"]["control"]
    if not found:
        return [""]
    alone = f"{control['judge_share']:.2f}" if control else "not run"
    return [f"{found['judge_share']:.2f} ({found['class']}; in the control {alone})"]


def _people(identity: Mapping[str, Any] | None) -> list[object]:
    if not identity:
        return []
    pooled = identity["pooled"]
    return [
        pooled["attack"],
        "not run" if pooled["control"] is None else pooled["control"],
    ]


def _recovered_over(
    attacks: Sequence[Mapping[str, Any]], key: str
) -> dict[str, tuple[list[float], list[float | None]]]:
    """Recovered by distance or effort, a series a dimension (and method).

    What is best of several classes has its control beside it.
    """
    series: dict[str, list[tuple[float, float | None]]] = {}
    for attack in attacks:
        if attack[key] is None:
            continue
        largest = attack["largest"]
        found = largest["attack"] if largest else attack["pooled"]
        method = f"{attack['guess'].partition(':')[0]}, " if key == "effort" else ""
        name = f"{method}d = {attack['dimension']}"
        series.setdefault(name, []).append((attack[key], found["recovered"]))
        if largest and largest["control"]:
            of_control = largest["control"]["recovered"]
            series.setdefault(f"{name}, control", []).append((attack[key], of_control))
    return {
        name: tuple(map(list, zip(*sorted(points, key=lambda p: p[0]), strict=True)))
        for name, points in series.items()
    }


def _pictures(
    experiment: Experiment,
    evaluation: Evaluation,
    attack: Mapping[str, Any],
    directory: RunDirectory,
) -> html.Section:
    """The first samples of an attack and its control, nearest private images above."""
    controls = experiment.federations[attack["arm"]].controls
    pictures = []
    for one in attack["targets"]:
        target, number = one["target"], one["adversary"]
        name = experiment.data.source.class_names[target]
        for arm in filter(None, (attack["arm"], controls.get(number))):
            images = evaluation.drawn[arm][number][:_SHOWN]
            drawn = _grid(experiment.data, evaluation, target, images)
            path = directory.figures / f"{arm}_{number}_{target}.png"
            figures.save(drawn, path)
            kind = "attack" if arm == attack["arm"] else "control"
            caption = f"{kind}, adversary {number}, scored as {name}"
            pictures.append((caption, figures.png(drawn)))
    text = (
        "Lower rows: the first samples that the generator drew, not selected. Upper "
        "rows: the victim's image nearest to each in L1; in the control the image that "
        "the victim would have held."
    )
    return html.Section(_title(attack), text, figures=pictures, wide=True)


def _every_picture(experiment: Experiment, evaluation: Evaluation) -> html.Section:
    """All samples of the attacks' shown adversaries, so that none is hidden."""
    pictures = []
    for attack in evaluation.summary["attacks"]:
        for one in attack["targets"]:
            images = evaluation.drawn[attack["arm"]][one["adversary"]]
            for start in range(0, len(images), _COLUMNS):
                shown = images[start : start + _COLUMNS]
                drawn = _grid(experiment.data, evaluation, one["target"], shown)
                caption = f"{_title(attack)}, samples from {start + 1}"
                pictures.append((caption, figures.png(drawn)))
    text = "All samples that the figures were computed from, in the order drawn."
    return html.Section("Every reconstruction", text, figures=pictures, wide=True)


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
            ("task_accuracy", "accuracy, all keys"),
            ("own_accuracy_least", "least participant's accuracy, own keys"),
            ("attack_loss", "mean of -score of the fakes with the guess"),
        )
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
        figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((name.replace("_", " "), figures.png(drawn)))
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
        figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((label, figures.png(drawn)))
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
        figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((label, figures.png(drawn)))
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


def _title(attack: Mapping[str, Any]) -> str:
    guess, near = attack["guess"], attack["distance"] is not None
    return f"{'distance ' if near else ''}{guess}, d = {attack['dimension']}"


def _name(data: Data) -> str:
    return data.source.name + (" (synthetic pictures)" if data.source.synthetic else "")
