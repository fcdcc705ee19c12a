"""The tables of runs of `run_key_protected` in the pages of results."""

from collections.abc import Mapping, Sequence

from tff_leak.metrics import score
from tff_leak.report.tables import (
    LATE,
    UNMEASURED,
    mean_of,
    or_unmeasured,
    over_seeds,
    seconds_text,
    sparse_table,
    target_figures,
    without_empty,
)

# Where everybody was first trained (experiments/key_snapshots.py).
_STOP = {
    "stop_recovered": "recovered, all just trained",
    "stop_judge_share": "judge share, all just trained",
}
_ACCURACIES = {
    "participant_accuracy": "mean participant accuracy",
    "participant_accuracy_own_moments": "the same of all tests, by own moments",
}
_LOCALLY = "first round with all at 97% on local data"
_STOP_ROUND = "pictures of round, all just trained"
_COMMON = ", common scale"


def key_protected(summaries: Sequence[Mapping]) -> str:
    """Returns the table, and with several seeds intervals, of `run_key_protected`."""
    study = summaries[0]["study"]
    if study == "attack":
        rows = [
            _key_attack_row(summary, number, one)
            for summary in summaries
            for number, attack in enumerate(summary["attacks"])
            for one in attack["targets"]
        ]
        mixed = any(has_common_scale(summary["attacks"]) for summary in summaries)
        scale = _COMMON if mixed else ""
        names = (f"{LATE}{scale}", f"{_STOP['stop_recovered']}{scale}")
        measured = (*names, _STOP["stop_judge_share"], _STOP_ROUND, _LOCALLY)
        rows = without_empty(or_unmeasured(rows, measured))
        return sparse_table(rows) + _key_intervals(summaries)
    found = "accuracy" if study == "accuracy" else "keys"
    rows = [
        {"seed": summary["seed"]} | _key_figures(one)
        for summary in summaries
        for one in summary[found]
    ]
    lines = ""
    if study == "accuracy":
        rows = or_unmeasured(rows, ("own moments",))
        lines = "".join(
            _accuracy_over_seeds(summaries, *figure) for figure in _ACCURACIES.items()
        )
    elif len(summaries) > 1:
        lines = f"\n{sparse_table(_keys_over_seeds(summaries))}"
    return sparse_table(rows) + lines


def _accuracy_over_seeds(summaries: Sequence[Mapping], figure: str, name: str) -> str:
    """A line a dimension; of seeds that have the figure."""
    by_dimension: dict[int, list[float]] = {}
    for summary in summaries:
        for one in summary["accuracy"]:
            if figure in one:
                by_dimension.setdefault(one["dimension"], []).append(one[figure])
    return "".join(
        f"\n{name}, d = {d}: {over_seeds(values, 4)}.\n"
        for d, values in by_dimension.items()
    )


def _keys_over_seeds(summaries: Sequence[Mapping]) -> list[dict[str, object]]:
    """Figures of keys alone, a row a distribution and dimension, over seeds."""
    values: dict[tuple, dict[str, list[float]]] = {}
    for summary in summaries:
        for row in summary["keys"]:
            setting = row["distribution"], row["dimension"]
            of_setting = values.setdefault(setting, {})
            for name, value in row.items():
                if isinstance(value, float):
                    of_setting.setdefault(name, []).append(value)
    return [
        {"distribution": distribution, "dimension": dimension}
        | {name.replace("_", " "): over_seeds(of, 4) for name, of in figures.items()}
        for (distribution, dimension), figures in values.items()
    ]


def _key_attack_row(summary: Mapping, number: int, one: Mapping) -> dict:
    """One attack on one target; without a target on the class that it shows best."""
    attacks = summary["attacks"]
    attack = attacks[number]
    # Of several attacks it has the first adversary's first sample each.
    shown = len(attacks) > 1 and one is attack["targets"][0]
    row = {
        "seed": summary["seed"],
        "column of the picture": number + 1 if shown else "",
        "guess": attack["guess"],
        "d": attack["dimension"],
    } | target_figures(one)
    people = (attack.get("identity") or {}).get("pooled")
    if people:
        row["right person nearest"] = people["attack"]
        row["control's right person"] = people["control"]
    common_scale = has_common_scale(attacks)
    if common_scale:
        row |= _on_common_scale(attack, one)
    row |= _late_of_key(attack, one, common_scale)
    row |= _largest_of_classes(attack)
    if "trained_round" in attack:
        row["first round with all trained"] = attack["trained_round"] or "not yet"
    if "locally_trained_round" in attack:
        row[_LOCALLY] = attack["locally_trained_round"] or "not yet"
    if "stop_round" in attack:
        row[_STOP_ROUND] = attack["stop_round"] or "not yet"
    [near] = [o for o in attack["overlap"] if o["adversary"] == one["adversary"]]
    fellow = near.get("fellow") or {"product": "", "class": ""}
    return row | {
        "product with nearest key": near["product"],
        "its class": near["class"],
        "next one's": near.get("rival", UNMEASURED),
        "product with another attacker's": fellow["product"],
        "that one's class": fellow["class"],
        "generator's steps a turn": attack.get("generator_steps", UNMEASURED),
        "control's steps": _not_run(attack.get("control_generator_steps", UNMEASURED)),
        "accuracy, all class keys": attack["task_accuracy"],
        "fakes' as well": attack.get("task_accuracy_with_fakes", UNMEASURED),
        "own keys": attack["own_accuracy"],
        "rounds": summary["rounds"],
        "seconds": seconds_text(summary["seconds"]),
    }


def has_common_scale(attacks: Sequence[Mapping]) -> bool:
    """Returns whether there are attacks without a target among those of a run.

    What these show best is measured by `score.common_floor`, and so are attacks with a
    target beside them, in columns of their own.
    """
    return any(attack["largest"] for attack in attacks)


def on_common_scale(figures: Mapping, ssim: float) -> float | None:
    """Returns `recovered` by the floor that attacks without a target have.

    Args:
      figures: of one target, or of all pooled, with `floor` and `reference`.
      ssim: of the pictures in question.
    """
    floor = score.common_floor(figures["floor"])
    return score.recovered(ssim, floor, figures["reference"]["ssim"])


def _on_common_scale(attack: Mapping, one: Mapping) -> dict[str, object]:
    """The attack's and its control's; without a target, of the class shown best."""
    row: dict[str, object] = {}
    for owner, kind in (("", "attack"), ("control's ", "control")):
        figures = (attack["largest"] or one)[kind]
        if figures is None:
            found = "not run"
        elif attack["largest"]:
            found = figures["recovered"]
        else:
            found = on_common_scale(one, figures["ssim"])
        row[f"{owner}recovered{_COMMON}"] = found
    return row


def _late_of_key(
    attack: Mapping, one: Mapping, common_scale: bool
) -> dict[str, object]:
    """The figures before the last round, and the control's."""
    row: dict[str, object] = {}
    for figure, name in ({"late_recovered": LATE} | _STOP).items():
        if figure in one:  # Runs of before it was measured do not have it.
            if attack["largest"]:
                row |= {name: "", f"control's {name}": ""}  # On the common scale alone.
            row |= before_the_end(attack, one, figure, name, common_scale=common_scale)
    return row


def before_the_end(
    attack: Mapping, one: Mapping, figure: str, name: str, *, common_scale: bool
) -> dict[str, object]:
    """Returns a figure of snapshots, and the control's, by column.

    Args:
      attack: as in `summary.json`; without a target its largest figures count.
      one: of `attack` a target, or all pooled; for an attack with a target.
      figure: `late_recovered`, `stop_recovered` or `stop_judge_share`.
      name: of the column.
      common_scale: whether an attack with a target also has columns of `recovered` on
        the scale of those without one, which have these alone.
    """
    has_scale = figure.endswith("recovered")
    if attack["largest"]:
        ran = {arm: of for arm, of in attack["largest"].items() if of is not None}
        scale = _COMMON if has_scale else ""
        by_scale = {scale: {arm: of[figure] for arm, of in ran.items()}}
    else:
        ran = one["late_recovered"]
        by_scale = {"": one[figure]}
        if common_scale and has_scale:
            ssim = one[figure.replace("recovered", "ssim")]
            found = {arm: on_common_scale(one, of) for arm, of in ssim.items()}
            by_scale[_COMMON] = found
    row: dict[str, object] = {}
    for scale, found in by_scale.items():
        if figure in _STOP and attack["stop_round"] is None:
            found = dict.fromkeys(ran, "not yet")
        row[f"{name}{scale}"] = found["attack"]
        row[f"control's {name}{scale}"] = found.get("control", "not run")
    return row


def _largest_of_classes(attack: Mapping) -> dict[str, object]:
    """What an attack without a target shows of any class; empty of one with a target.

    The class that it shows best, and all that it shows: the judge may name a class of
    other adversaries, who keep their data in the control unless everybody attacks.
    """
    largest = attack["largest"] or {"attack": {}, "control": {}}
    row: dict[str, object] = {}
    for owner, kind in (("", "attack"), ("control's ", "control")):
        figures = largest[kind]
        found = "not run" if figures is None else figures.get("judge_share_largest", "")
        row[f"{owner}judge share, largest of classes"] = found
    pairs = "{reached_pairs} of {pairs}"
    counted = largest["attack"].get("pairs")
    row["reached, pairs"] = pairs.format(**largest["attack"]) if counted else ""
    elsewhere = attack.get("elsewhere") or {}
    for owner, kind in (("", "attack"), ("control's ", "control")):
        figures = elsewhere.get(kind, {"judge_share": ""})
        share = "not run" if figures is None else figures["judge_share"]
        row[f"{owner}judge share, any class"] = share
    return row


def _not_run(value: object) -> object:
    return "not run" if value is None else value


def _key_figures(one: Mapping) -> dict[str, object]:
    """The figures of one dimension, four digits of accuracies."""
    return {
        name.replace("_", " "): f"{value:.4f}" if isinstance(value, float) else value
        for name, value in one.items()
        if name != "class_scores"
    } | _shared_scores(one.get("class_scores", []))


def shared_class_scores(rows: Sequence[Mapping]) -> list[float]:
    """Returns the scores of classes with several keys, each with its own ones."""
    return [value for row in rows if len(row["own"]) > 1 for value in row["own"]]


def _shared_scores(rows: Sequence[Mapping]) -> dict[str, object]:
    """Of classes that participants share: the mean score with each of their keys."""
    shared = shared_class_scores(rows)
    if not shared:
        return {}
    others = [row["others"] for row in rows if len(row["own"]) > 1]
    return {
        "shared classes' scores, mean": mean_of(shared),
        "least": min(shared),
        "with another key, largest": max(others),
    }


def _key_intervals(summaries: Sequence[Mapping]) -> str:
    """`recovered` over seeds, for each guess, key size and set of targets."""
    values: dict[str, list[float | None]] = {}
    common = "recovered, common scale"
    for summary in summaries:
        for attack in summary["attacks"]:
            name = f"{attack['guess']}, d = {attack['dimension']}"
            if attack["largest"] is None:
                pooled = attack["pooled"]
                name += _target_list(pooled["targets"])
                line = f"recovered, {name}"
                values.setdefault(line, []).append(pooled["recovered"])
                if has_common_scale(summary["attacks"]):
                    found = on_common_scale(pooled, pooled["attack"]["ssim"])
                    values.setdefault(f"{common}, {name}", []).append(found)
                continue
            for kind, found in attack["largest"].items():
                if found is not None:
                    line = f"{common}, {name}, {kind}, largest of classes"
                    values.setdefault(line, []).append(found["recovered"])
            if attack["largest"]["control"] is not None:
                line = f"{common}, {name}, attack less control of the same seed"
                values.setdefault(line, []).append(above_control(attack["largest"]))
    return "".join(
        f"\n{name}: {over_seeds(found)}.\n" for name, found in values.items()
    )


def above_control(largest: Mapping[str, Mapping]) -> float | None:
    """Returns by how much an attack without a target is above its control.

    Both have the same seed, so that over seeds this has an interval of its own, which
    two intervals that overlap do not tell.
    """
    attack, control = (largest[name]["recovered"] for name in ("attack", "control"))
    return None if attack is None or control is None else attack - control


def _target_list(targets: Sequence[int]) -> str:
    return f", target {', '.join(str(target) for target in dict.fromkeys(targets))}"
