"""The tables of runs of `run_server_gan` in the pages of results."""

from collections.abc import Mapping, Sequence

from tff_leak.report.tables import sparse_table


def server_gan(summaries: Sequence[Mapping]) -> str:
    """Returns the tables of runs of `run_server_gan`: a row a class of the victim.

    "with" and "without" are correlations with the mean of real pictures with and
    without the victim's property, first of pictures asked for as the victim's, then of
    those asked for as others'; "nearer to with" the share of single pictures; "margin"
    SSIM to the nearest of the victim's pictures less that to the nearest of others',
    also of control and reference, of which `recovered` is made
    (`metrics.properties.evaluate_properties`). Faces have a second table, and runs with
    an honest arm the shared model's accuracy over the rounds (Fig. 7).
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
        sparse_table(part, missing="") for part in (rows, quality, curves) if part
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
