"""The tables of the pages of results, one for each other kind of experiment."""

from collections.abc import Mapping, Sequence

from tff_leak.report.tables import (
    LATE,
    UNMEASURED,
    against,
    epsilon_text,
    interval_text,
    mean_of,
    or_unmeasured,
    over_seeds,
    recovered_by_seed,
    recovered_lines,
    seconds_text,
    shared_targets,
    sparse_table,
    table,
    target_figures,
)

_FIRST_TURN = "task accuracy after the first turn"
_DSSGD = ("seed", "order", "best accuracy", "in round", "last accuracy", "rounds")


def client_gan(summaries: Sequence[Mapping]) -> str:
    """Returns the table and the intervals of runs of `run_client_gan`."""
    rows = [
        _client_gan_row(summary, index)
        for summary in summaries
        for index in range(len(summary["targets"]))
    ]
    measured = or_unmeasured(rows, [LATE, _FIRST_TURN])
    return sparse_table(measured) + recovered_lines(summaries)


def model_inversion(summaries: Sequence[Mapping]) -> str:
    """Returns the table and the interval of runs of `run_model_inversion`."""
    rows = []
    for summary in summaries:
        accuracy = summary["task_accuracy"]["attack"]
        for one in summary["targets"]:
            rows.append(
                {"seed": summary["seed"], "network": summary["network"]}
                | target_figures(one)
                | against(one, "untrained")
                | {
                    "task accuracy": accuracy,
                    "epochs": summary["epochs"],
                    "seconds": seconds_text(summary["seconds"]),
                }
            )
    scores = [_pooled_quality(summary) for summary in summaries]
    return f"{sparse_table(rows)}\n{sparse_table(scores)}{recovered_lines(summaries)}"


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


def update_attacks(summaries: Sequence[Mapping]) -> str:
    """Returns the table and the interval of runs of `run_update_attacks`."""
    rows = [_update_attack_row(summary) for summary in summaries]
    [measure] = {summary["headline"]["measure"] for summary in summaries}
    values = [summary["headline"]["value"] for summary in summaries]
    return sparse_table(rows) + f"\n{measure}: {over_seeds(values)}.\n"


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
        row["epsilon, a round"] = epsilon_text(summary["epsilon_round"])
        row["epsilon, total"] = epsilon_text(summary["epsilon"])
    return row | {
        "task accuracy": summary["task_accuracy"]["attack"],
        "rounds": summary["rounds"],
        "seconds": seconds_text(summary["seconds"]),
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
    return sparse_table(rows, missing="") + "".join(lines)


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
        "epsilon": "" if cell["epsilon"] is None else epsilon_text(cell["epsilon"]),
        "seconds": seconds_text(cell["seconds"]["mean"]),
    }


def _late_leakage(cell: Mapping) -> dict[str, str]:
    """Of attacks that are looked at over the rounds."""
    late = cell.get("late_leakage", {"mean": None})
    if late["mean"] is None:
        return {}
    return {"last half of rounds": interval_text(**late)}


def _known(value: float | None) -> object:
    return "" if value is None else value


def overview_row(name: str, summaries: Sequence[Mapping]) -> list[object]:
    """Returns a preset's line in the overview.

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
    row = {"seed": summary["seed"]} | target_figures(one) | against(one, "passive")
    if (
        "late_recovered" in one
    ):  # Steadier than the last round's: see client_gan_curves.
        row[LATE] = one["late_recovered"]["attack"]
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
        row["epsilon, a turn"] = UNMEASURED if turn is None else epsilon_text(turn)
        row["epsilon, total"] = epsilon_text(summary["epsilon"])
    turns = summary.get("task_accuracy_by_turn", {}).get("attack")
    if turns:  # In the presets a victim's: after an adversary's, targets are fakes.
        row[_FIRST_TURN] = turns[0][-1]
    steps = summary.get("generator_steps", {})
    return row | {
        "generator's steps a turn": steps.get("attack", UNMEASURED),
        "control's steps": steps.get("control", UNMEASURED),
        "task accuracy": summary["task_accuracy"]["attack"],
        "rounds": summary["rounds"],
        "seconds": seconds_text(summary["seconds"]),
    }
