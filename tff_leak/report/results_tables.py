"""The tables of `docs/results.md`, one for each kind of experiment."""

from collections.abc import Mapping, Sequence

from tff_leak.metrics.score import confidence_interval

# Of a summary that is older than the figure.
_UNMEASURED = "not measured"
_LATE = "recovered, last half of rounds"
# Where everybody was first trained (experiments/key_snapshots.py).
_STOP = {
    "stop_recovered": "recovered, all just trained",
    "stop_judge_share": "judge share, all just trained",
}
_STOP_ROUND = "pictures of round, all just trained"

_DSSGD = ("seed", "order", "best accuracy", "in round", "last accuracy", "rounds")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a table in Markdown; None is "not defined", numbers have 3 digits."""
    lines = [header, ["---"] * len(header), *([_cell(v) for v in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def client_gan(summaries: Sequence[Mapping]) -> str:
    """Returns the table and the intervals of runs of `run_client_gan`."""
    rows = [
        _client_gan_row(summary, index)
        for summary in summaries
        for index in range(len(summary["targets"]))
    ]
    return _sparse_table(_late_or_unmeasured(rows)) + _intervals(summaries)


def _late_or_unmeasured(rows: Sequence[Mapping]) -> list[Mapping]:
    """Tells runs of before it was measured from those that have no such figure."""
    measured = (_LATE, *_STOP.values(), _STOP_ROUND)
    # No set: columns have one order.
    late = dict.fromkeys(
        name for row in rows for name in row if name.endswith(measured)
    )
    return [row | {name: row.get(name, _UNMEASURED) for name in late} for row in rows]


def model_inversion(summaries: Sequence[Mapping]) -> str:
    """Returns the table and the interval of runs of `run_model_inversion`."""
    rows = []
    for summary in summaries:
        accuracy = summary["task_accuracy"]["attack"]
        for one in summary["targets"]:
            rows.append(
                {"seed": summary["seed"], "network": summary["network"]}
                | _target_figures(one)
                | _against(one, "untrained")
                | {
                    "task accuracy": accuracy,
                    "epochs": summary["epochs"],
                    "seconds": _seconds(summary["seconds"]),
                }
            )
    scores = [_pooled_quality(summary) for summary in summaries]
    return f"{_sparse_table(rows)}\n{_sparse_table(scores)}{_intervals(summaries)}"


def _pooled_quality(summary: Mapping) -> dict[str, object]:
    """Inception Score and distances to the training images, all targets together."""
    pooled = summary["pooled"]
    attack, reference = pooled["attack"], pooled["reference"]
    return {
        "seed": summary["seed"],
        "samples": attack["samples"],
        "Inception Score (judge)": attack["inception_score"],
        "of real held-out pictures": reference["inception_score"],
        "FID": attack["fid"],
        "their FID": reference["fid"],
        "KID": attack["kid"],
        "their KID": reference["kid"],
    }


def server_gan(summaries: Sequence[Mapping]) -> str:
    """Returns the tables of runs of `run_server_gan`: a row a class of the victim.

    "with" and "without" are correlations with the mean of real pictures with and
    without the victim's property, first of pictures asked for as the victim's, then of
    those asked for as others'; "nearer to with" the share of single pictures. Faces
    have a second table, and runs with an honest arm the shared model's accuracy over
    the rounds (Fig. 7).
    """
    rows = [
        _server_gan_row(summary, one)
        for summary in summaries
        for one in summary["targets"]
    ]
    quality = [
        {"seed": summary["seed"], "arm": arm} | _quality_figures(summary, arm, figures)
        for summary in summaries
        for arm, figures in summary.get("quality", {}).items()
    ]
    curves = [
        _accuracy_row(summary, arm)
        for summary in summaries
        for arm in summary.get("task_accuracy_by_round", {})
        if "honest" in summary["task_accuracy_by_round"]
    ]
    return "\n".join(
        _sparse_table(part, missing="") for part in (rows, quality, curves) if part
    )


def _server_gan_row(summary: Mapping, one: Mapping) -> dict[str, object]:
    sets = one["sets"]
    victim, other = sets["victim"], sets.get("other")
    angle = summary["angle"]
    row = {key: summary[key] for key in ("seed", "server", "mode", "victim")} | {
        "property": summary["words"][0] if angle is None else f"turned by {angle:g}",
        "class": one["target"],
        "leans as it should": one["succeeded"],
        "as victim: with": victim["template_with"],
        "without": victim["template_without"],
    }
    # An active server's generator cannot be asked for others' pictures.
    row |= {
        "as other: with": other["template_with"] if other else "",
        "as other: without": other["template_without"] if other else "",
        "margin": victim["margin"],
        "control's": sets["control"]["margin"] if "control" in sets else "not run",
        "reference's": sets["reference"]["margin"],
        "judge share": victim["judge_share"],
        "diversity ratio": victim["diversity_ratio"],
        "task accuracy": summary["task_accuracy"]["attack"],
    }
    if summary.get("defences"):  # Runs from before there were any do not say.
        row |= {
            "defences": ", ".join(summary["defences"]),
            "epsilon": summary["epsilon"],
        }
    if "identity" not in summary:
        return row
    [person] = [
        person["sets"]
        for person in summary["identity"]["targets"]
        if person["target"] == one["target"]
    ]
    names = ("victim", "other", "control", "reference")
    for name in (name for name in names if name in sets):
        row[f"{name}: nearer to with"] = sets[name]["nearer_share"]
        row[f"{name}: right person nearest"] = person[name]
    [check] = [c for c in summary["template_check"] if c["target"] == one["target"]]
    row["real victim's: nearer to with"] = check["with"]
    row["real control's: nearer to with"] = check["without"]
    return row


def _quality_figures(summary: Mapping, arm: str, figures: Mapping) -> dict[str, object]:
    """Table III's score of pictures of all classes, with better ones beside it."""
    return {
        "server": summary["server"],
        "samples": figures["samples"],
        "Inception Score (judge)": figures["inception_score"],
        "of real pictures": figures["real_inception_score"],
        "FID": figures["fid"],
        "KID": figures["kid"],
    }


def _accuracy_row(summary: Mapping, arm: str) -> dict[str, object]:
    """An arm's task accuracy at a few rounds, evenly spread, and its distance."""
    curve = summary["task_accuracy_by_round"][arm]
    honest = summary["task_accuracy_by_round"]["honest"]
    last = len(curve) - 1
    rounds = sorted({round(last * part / 4) for part in range(5)})
    return {
        "seed": summary["seed"],
        "server": summary["server"],
        "arm": arm,
        **{f"accuracy, round {place + 1}": curve[place] for place in rounds},
        "largest lag behind honest": max(
            other - own for other, own in zip(honest, curve, strict=True)
        ),
    }


def update_attacks(summaries: Sequence[Mapping]) -> str:
    """Returns the table and the interval of runs of `run_update_attacks`."""
    rows = [_update_attack_row(summary) for summary in summaries]
    [measure] = {summary["headline"]["measure"] for summary in summaries}
    values = [summary["headline"]["value"] for summary in summaries]
    return _sparse_table(rows) + f"\n{measure}: {over_seeds(values)}.\n"


def _update_attack_row(summary: Mapping) -> dict[str, object]:
    """One run's line by column; a column that is absent does not apply."""
    row = {
        "seed": summary["seed"],
        "clients": summary["clients"],
        "images of each": summary["examples"],
        "sent by": summary["algorithm"],
        "server sees": summary["threat"]["view"],
        "defences": ", ".join(summary["defences"]) or "none",
    }
    if "membership" in summary:
        found = summary["membership"]
        attack = found["attack"]
        low, high = attack["auc_interval"]
        row |= {
            "advantage": attack["advantage"],
            "p": f"{attack['p_value']:.2g}",
            "nobody's examples": found["held_out"]["advantage"],
            "initial model": found["initial"]["advantage"],
            "AUC": attack["auc"],
            "95% over examples": f"{low:.3f} to {high:.3f}",
        }
    else:
        pooled = summary["pooled"]
        row |= {
            "recovered": pooled["recovered"],
            "SSIM": pooled["attack"]["ssim"],
            "floor": pooled["floor"]["value"],
            "control's SSIM": pooled["control"]["ssim"],
            "other real images'": pooled["reference"]["ssim"],
            "nearest to the victim's own": summary["identified"]["attack"],
            "control's": summary["identified"]["control"],
            "images found": summary["found"]["attack"],
            "judge share": pooled["attack"]["judge_share"],
        }
    if summary["epsilon"] is not None:
        row["epsilon, a round"] = _epsilon(summary["epsilon_round"])
        row["epsilon, total"] = _epsilon(summary["epsilon"])
    return row | {
        "task accuracy": summary["task_accuracy"]["attack"],
        "rounds": summary["rounds"],
        "seconds": _seconds(summary["seconds"]),
    }


def dssgd(summaries: Sequence[Mapping]) -> str:
    """Returns the table of runs of `run_dssgd`."""
    rows = [
        [
            summary["seed"],
            order,
            f"{figures['best_accuracy']:.4f}",  # 0.9699 is not the 0.97 of the paper
            figures["best_round"],
            f"{figures['last_accuracy']:.4f}",
            summary["rounds"],
        ]
        for summary in summaries
        for order, figures in summary["orders"].items()
    ]
    return table(_DSSGD, rows)


def key_protected(summaries: Sequence[Mapping]) -> str:
    """Returns the table, and with several seeds intervals, of `run_key_protected`."""
    study = summaries[0]["study"]
    if study == "attack":
        rows = [
            _key_attack_row(summary, attack, one)
            for summary in summaries
            for attack in summary["attacks"]
            for one in attack["targets"]
        ]
        rows = _without_empty(_late_or_unmeasured(rows))
        return _sparse_table(rows) + _key_intervals(summaries)
    found = "accuracy" if study == "accuracy" else "keys"
    rows = [
        {"seed": summary["seed"]} | _key_figures(one)
        for summary in summaries
        for one in summary[found]
    ]
    lines = ""
    if study == "accuracy":
        by_dimension: dict[int, list[float]] = {}
        for summary in summaries:
            for one in summary["accuracy"]:
                known = by_dimension.setdefault(one["dimension"], [])
                known.append(one["participant_accuracy"])
        lines = "".join(
            f"\nmean participant accuracy, d = {d}: {over_seeds(values, 4)}.\n"
            for d, values in by_dimension.items()
        )
    elif len(summaries) > 1:
        lines = f"\n{_sparse_table(_keys_over_seeds(summaries))}"
    return _sparse_table(rows) + lines


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


def leak_matrix(summaries: Sequence[Mapping]) -> str:
    """Returns the tables of `run_leak_matrix`: a row a cell with its seeds."""
    rows = [
        {
            "attack": cell["attack"],
            "defence": cell["defence_title"],
            **_cell_figures(cell),
            "note": f"{cell['status'].replace('_', ' ')}: {cell['reason']}"
            if cell["reason"]
            else "",
        }
        for summary in summaries
        for cell in summary["cells"]
    ]
    # Matrices of before it was noted have none.
    noted = [summary for summary in summaries if summary.get("code")]
    lines = [f"\nRuns by version of the code: {code_text(one)}.\n" for one in noted]
    return _sparse_table(rows, missing="") + "".join(lines)


def code_text(summary: Mapping) -> str:
    """Returns how many runs of a leak matrix are of which commit, in words."""
    found = [
        # As many digits as tell commits apart; what was not committed says so.
        f"{commit[:10]}{'-dirty' if commit.endswith('-dirty') else ''} ({runs})"
        for commit, runs in summary["code"].items()
    ]
    return ", ".join(found)


def _cell_figures(cell: Mapping) -> dict[str, object]:
    """The figures of a cell of a leak matrix, means over its seeds, if it has any."""
    if not any(not run["error"] for run in cell["runs"]):
        return {}
    reached = cell["reached"]
    if reached is not None:
        reached = f"{reached} of {cell['leakage']['seeds']}"
    return {
        "leaks": f"{cell['measure']} {interval_text(**cell['leakage'])}",
        **_late_leakage(cell),
        "control's": _known(cell["control"]["mean"]),
        "judge share": _known(cell["judge_share"]["mean"]),
        "reached": _known(reached),
        "task accuracy": cell["task_accuracy"]["mean"],
        "epsilon": "" if cell["epsilon"] is None else _epsilon(cell["epsilon"]),
        "seconds": _seconds(cell["seconds"]["mean"]),
    }


def _late_leakage(cell: Mapping) -> dict[str, str]:
    """Of attacks that are looked at over the rounds."""
    late = cell.get("late_leakage", {"mean": None})
    if late["mean"] is None:
        return {}
    return {"last half of rounds": interval_text(**late)}


def _known(value: float | None) -> object:
    return "" if value is None else value


def interval_text(
    mean: float | None,
    interval: Sequence[float] | None,
    seeds: int,
    digits: int = 2,
) -> str:
    """Returns a mean over seeds in words, with its interval where there is one."""
    if mean is None:
        return "not defined" if seeds == 1 else "not defined for every seed"
    text = f"{mean:.{digits}f}"
    if interval is None:
        return f"{text} (one seed)"
    low, high = (f"{end:.{digits}f}" for end in interval)
    return f"{text} [{low}, {high}] ({seeds} seeds)"


def overview_row(name: str, summaries: Sequence[Mapping]) -> list[object]:
    """Returns a preset's line at the head of the page.

    Its cells: name, runs, seeds, recovered, of which targets (those that all seeds
    have), targets reached, judge share, the control's, share of samples whose nearest
    picture is of the right person, task accuracy; means over all runs but for
    recovered.
    """
    pooled = [summary["pooled"] for summary in summaries]
    controls = [one["control"] for one in pooled if one["control"]]
    people = [s["identity"] for s in summaries if s.get("identity")]
    return [
        name,
        len(summaries),
        len({summary["seed"] for summary in summaries}),
        over_seeds(recovered_by_seed(summaries)),
        ", ".join(str(target) for key in shared_targets(summaries) for target in key),
        reached_text(summaries),
        mean_of([one["attack"]["judge_share"] for one in pooled]),
        mean_of([one["judge_share"] for one in controls]) if controls else "not run",
        mean_of([one["pooled"]["attack"] for one in people]) if people else "",
        mean_of([summary["task_accuracy"]["attack"] for summary in summaries]),
    ]


def reached_text(summaries: Sequence[Mapping]) -> str | None:
    """Returns how many targets of all runs are reached, in words.

    None where it is defined for none: it takes several pictures of a target, whose
    diversity can be measured, and a class beside it. A target that the judge does not
    recognise is no exception to that.
    """
    reached = [one["reached"] for summary in summaries for one in summary["targets"]]
    known = [
        one["value"]
        for one in reached
        if one["value"] is not None and one["diversity_ratio"] is not None
    ]
    return f"{sum(known)} of {len(known)}" if known else None


def _client_gan_row(summary: Mapping, index: int) -> dict[str, object]:
    """One target's line by column; a column that is absent does not apply."""
    one = summary["targets"][index]
    row = {"seed": summary["seed"]} | _target_figures(one) | _against(one, "passive")
    if (
        "late_recovered" in one
    ):  # Steadier than the last round's: see client_gan_curves.
        row[_LATE] = one["late_recovered"]["attack"]
    if summary.get("identity"):
        person = summary["identity"]["targets"][index]
        row |= {
            "right person nearest": person["attack"],
            "closest other person": person["closest_other"],
            "control's person": person["control"],
            "reference's person": person["reference"],
        }
    if summary.get("epsilon") is not None:
        turn = summary.get("epsilon_turn")
        row["epsilon, a turn"] = _UNMEASURED if turn is None else _epsilon(turn)
        row["epsilon, total"] = _epsilon(summary["epsilon"])
    steps = summary.get("generator_steps", {})
    return row | {
        "generator's steps a turn": steps.get("attack", _UNMEASURED),
        "control's steps": steps.get("control", _UNMEASURED),
        "task accuracy": summary["task_accuracy"]["attack"],
        "rounds": summary["rounds"],
        "seconds": _seconds(summary["seconds"]),
    }


def _epsilon(value: float | str) -> str:
    """An epsilon, of which the infinite one is a word."""
    return f"{float(value):.3g}"


def _key_attack_row(summary: Mapping, attack: Mapping, one: Mapping) -> dict:
    """One attack on one target; without a target on the class that it shows best."""
    row = {
        "seed": summary["seed"],
        "guess": attack["guess"],
        "d": attack["dimension"],
    } | _target_figures(one)
    people = (attack.get("identity") or {}).get("pooled")
    if people:
        row["right person nearest"] = people["attack"]
        row["control's right person"] = people["control"]
    row |= _late_of_key(attack, one) | _largest_of_classes(attack)
    if "trained_round" in attack:
        row["first round with all trained"] = attack["trained_round"] or "not yet"
    if "stop_round" in attack:
        row[_STOP_ROUND] = attack["stop_round"] or "not yet"
    [near] = [o for o in attack["overlap"] if o["adversary"] == one["adversary"]]
    fellow = near.get("fellow") or {"product": "", "class": ""}
    return row | {
        "product with nearest key": near["product"],
        "its class": near["class"],
        "next one's": near.get("rival", _UNMEASURED),
        "product with another attacker's": fellow["product"],
        "that one's class": fellow["class"],
        "generator's steps a turn": attack.get("generator_steps", _UNMEASURED),
        "control's steps": _not_run(attack.get("control_generator_steps", _UNMEASURED)),
        "accuracy, all keys": attack["task_accuracy"],
        "own keys": attack["own_accuracy"],
        "rounds": summary["rounds"],
        "seconds": _seconds(summary["seconds"]),
    }


def _late_of_key(attack: Mapping, one: Mapping) -> dict[str, object]:
    """The figures before the last round, and the control's."""
    row: dict[str, object] = {}
    for figure, name in ({"late_recovered": _LATE} | _STOP).items():
        found = one.get(figure)
        if found is None:
            continue
        largest = attack["largest"]
        if largest is not None:
            ran = {arm: of for arm, of in largest.items() if of is not None}
            found = {arm: of[figure] for arm, of in ran.items()}
        if figure in _STOP and attack["stop_round"] is None:
            found = dict.fromkeys(one["late_recovered"], "not yet")
        row[name] = found["attack"]
        row[f"control's {name}"] = found.get("control", "not run")
    return row


def _largest_of_classes(attack: Mapping) -> dict[str, object]:
    """What an attack without a target shows of any class; empty of one with a target.

    The class that it shows best, and all that it shows: the judge may name a class of
    other adversaries, who keep their data in the control unless everybody attacks.
    """
    largest = attack["largest"] or {"attack": {}, "control": {}}
    row: dict[str, object] = {}
    columns = {"recovered": "recovered", "judge share": "judge_share_largest"}
    for text, key in columns.items():
        for owner, kind in (("", "attack"), ("control's ", "control")):
            figures = largest[kind]
            found = "not run" if figures is None else figures.get(key, "")
            row[f"{owner}{text}, largest of classes"] = found
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
    for summary in summaries:
        for attack in summary["attacks"]:
            name = f"{attack['guess']}, d = {attack['dimension']}"
            if attack["largest"] is None:
                name += _target_list(attack["pooled"]["targets"])
                values.setdefault(name, []).append(attack["pooled"]["recovered"])
                continue
            for kind, found in attack["largest"].items():
                if found is not None:
                    line = f"{name}, {kind}, largest of classes"
                    values.setdefault(line, []).append(found["recovered"])
            if attack["largest"]["control"] is not None:
                line = f"{name}, attack less control of the same seed"
                values.setdefault(line, []).append(above_control(attack["largest"]))
    return "".join(
        f"\nrecovered, {name}: {over_seeds(found)}.\n" for name, found in values.items()
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


def _target_figures(one: Mapping) -> dict[str, object]:
    control, diverse = one["control"], one["reached"]["diversity_ratio"]
    return {
        "target": one["target"],
        "recovered": one["recovered"],
        "recovered, closest class": one.get("recovered_closest", _UNMEASURED),
        # Runs of before it took that have a verdict also where there is no diversity.
        "reached": one["reached"]["value"] if diverse is not None else None,
        "judge share": one["attack"]["judge_share"],
        "control's": control["judge_share"] if control else "not run",
        "SSIM": one["attack"]["ssim"],
        "reference": one["reference"]["ssim"],
        "reference pictures": one["reference"]["samples"],
        "floor": one["floor"]["value"],
        "control's SSIM": control["ssim"] if control else "not run",
        "class mean": one["class_mean_similarity"],
        "diversity ratio": diverse,
    }


def _against(one: Mapping, name: str) -> dict[str, object]:
    """Figures of an extra control, where it was run."""
    figures = one["extra_controls"].get(name)
    if figures is None:
        return {}
    keys = {"recovered": "recovered", "judge share": "judge_share", "SSIM": "ssim"}
    return {
        f"{name} {text}": figures.get(key, _UNMEASURED) for text, key in keys.items()
    }


def _sparse_table(
    rows: Sequence[Mapping[str, object]], missing: str = "not run"
) -> str:
    """A table of the columns that some row has; others' cells say that one misses."""
    longest = max(rows, key=len)
    names = [*longest, *(name for row in rows for name in row if name not in longest)]
    names = list(dict.fromkeys(names))
    return table(names, [[row.get(name, missing) for name in names] for row in rows])


def _without_empty(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The rows without what is empty in all of them."""
    filled = {name for row in rows for name, value in row.items() if value != ""}
    return [{name: row[name] for name in row if name in filled} for row in rows]


def recovered_by_seed(summaries: Sequence[Mapping]) -> list[float | None]:
    """Returns for each seed the mean `recovered` of the targets that all seeds have."""
    values: dict[int, list[float | None]] = {}
    shared = shared_targets(summaries)
    for summary in summaries:
        if tuple(summary["pooled"]["targets"]) in shared:
            recovered = summary["pooled"]["recovered"]
            values.setdefault(summary["seed"], []).append(recovered)
    return [mean_of(of_seed) for of_seed in values.values()]


def shared_targets(summaries: Sequence[Mapping]) -> list[tuple]:
    """Returns the targets, or sets of them, that every seed was run for, in order."""
    targets: dict[int, set[tuple]] = {}
    for summary in summaries:
        key = tuple(summary["pooled"]["targets"])
        targets.setdefault(summary["seed"], set()).add(key)
    return sorted(set.intersection(*targets.values()))


def _intervals(summaries: Sequence[Mapping]) -> str:
    """`recovered` over seeds, for each set of targets and for all of them."""
    by_targets: dict[tuple, list[Mapping]] = {}
    for summary in summaries:
        by_targets.setdefault(tuple(summary["pooled"]["targets"]), []).append(summary)
    lines = [
        f"recovered{_named(targets, by_targets)}: "
        f"{over_seeds(recovered_by_seed(runs))}.\n"
        for targets, runs in by_targets.items()
    ]
    if len(by_targets) > 1:
        lines.append(
            "recovered, mean over the targets that all seeds have: "
            f"{over_seeds(recovered_by_seed(summaries))}.\n"
        )
    return "\n" + "\n".join(lines)


def _named(targets: tuple, by_targets: Mapping[tuple, object]) -> str:
    if len(by_targets) == 1:
        return ""
    return f", target {', '.join(map(str, targets))}"


def over_seeds(values: Sequence[float | None], digits: int = 2) -> str:
    """Returns the mean of one value a seed in words, with its 95% interval.

    Args:
      values: one a seed; None where it is not defined.
      digits: after the point.
    """
    if not values:
        return "no target that all seeds have"
    mean = mean_of(values)
    interval = None if mean is None else confidence_interval(values)
    return interval_text(mean, interval, len(values), digits)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Returns the mean; None where a value is missing."""
    if None in values:
        return None
    return sum(values) / len(values)


def _seconds(seconds: float | None) -> object:
    # A run that was killed and gone on with does not know how long it took.
    return "unknown" if seconds is None else round(seconds)


def _cell(value: object) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
