"""Parts that the reports of several experiments have in common."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tff_leak.data.sources import Source
from tff_leak.report import html
from tff_leak.runtime.run_directory import RunDirectory

_COLUMNS = {
    "judge share": "judge_share",
    "rejected": "rejected_share",
    "confidence": "judge_confidence",
    "SSIM": "ssim",
    "L1": "l1",
    "PSNR (dB)": "psnr",
    "SSIM to held-out": "ssim_to_heldout",
    "L1 to held-out": "l1_to_heldout",
    "SSIM to others": "ssim_to_others",
    "diversity": "diversity",
    "FID": "fid",
    "KID": "kid",
    "IS": "inception_score",
}


def nouns_of(source: Source) -> tuple[str, str]:
    """Returns what a class of the source is called, singular and plural."""
    if source.name in ("digits", "mnist"):
        return "digit", "digits"
    if source.shows_people:
        return "person", "persons"
    return "class", "classes"


def metrics_rows(directory: RunDirectory) -> list[dict[str, str]]:
    """Returns the rows of `metrics.csv`, one a round; a missing value is empty."""
    with open(directory.metrics_csv, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def series_of(
    rows: Sequence[Mapping[str, str]], arms: Iterable[str], metric: str
) -> dict[str, tuple[list[int], list[float]]]:
    """Returns rounds and values of one metric, by arm that has it.

    Args:
      rows: of `metrics_rows`; a missing value becomes a gap.
      arms: names.
      metric: of columns `<arm>/<metric>`.
    """
    rounds = [int(row["round"]) for row in rows]
    return {
        arm: (rounds, [float(row[f"{arm}/{metric}"] or math.nan) for row in rows])
        for arm in arms
        if rows and f"{arm}/{metric}" in rows[0]
    }


def privacy_facts(summary: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Returns which defences a federated averaging had, and what they cost.

    Args:
      summary: with the entries of `privacy.price`, and of the rounds that were run and
        planned.
    """
    facts: list[tuple[str, object]] = [
        ("defences", ", ".join(summary["defences"]) or "none")
    ]
    if summary["epsilon"] is not None:
        facts += [
            ("epsilon", summary["epsilon"]),
            ("epsilon of one round", summary["epsilon_round"]),
            ("delta", f"{summary['delta']:g}"),
            ("neighbouring data sets", summary["neighbours"]),
        ]
    if summary["rounds"] < summary["rounds_planned"]:
        facts.append(("rounds without the privacy budget", summary["rounds_planned"]))
    return facts


def figures_section(summary: Mapping[str, Any], noun: str) -> html.Section:
    """All figures of all sets as tables, and what reaches them without an attack.

    Args:
      summary: with `targets` and `pooled` as `evaluate_targets` returns them.
      noun: what a target is, e.g. "digit".
    """
    header = ["set", *_COLUMNS]
    tables = [
        (f"Target {noun} {one['target']}", header, _rows(one))
        for one in summary["targets"]
    ]
    if len(tables) > 1:
        tables.insert(0, ("All targets", header, _rows(summary["pooled"])))
    tables.append(_floor_table(summary["pooled"]))
    compared = summary["pooled"]["compared"]
    text = (
        "Reference: real held-out images, scored as if they were reconstructions. "
        "Distances are to the nearest of the victim's "
        f"{compared['private']} images of the target, and to the nearest of "
        f"{compared['heldout']} held-out images of it; among fewer images the nearest "
        "is farther off. SSIM over the windows with foreground; rejected: judged to be "
        "none of the classes; diversity is the mean pairwise L1; FID, KID and "
        "Inception Score use the judge's features."
    )
    return html.Section("All figures", text, tables=tables)


def _rows(figures_of: Mapping[str, Any]) -> list[list[object]]:
    """One row for each set of pictures that there is."""
    sets = {
        "attack": figures_of["attack"],
        "control": figures_of["control"],
        **figures_of["extra_controls"],
        "reference": figures_of["reference"],
    }
    return [
        [name, *(values[key] for key in _COLUMNS.values())]
        for name, values in sets.items()
        if values is not None
    ]


def _floor_table(pooled: Mapping[str, Any]) -> tuple:
    names = {
        "control": "control run",
        "blank": "blank image",
        "other_class_means": "means of the other classes",
        "other_class_images": "real images of the other classes",
        "grand_mean": "mean of all other classes together",
        "closest_class_mean": "mean of the closest other class (not part of the floor)",
        "closest_class_images": "images of the closest other class (not part of it)",
    }
    if "heldout_mean" in pooled["floor"]:  # Of attacks that want the very images.
        names["heldout_mean"] = "mean of held-out images of the target's class"
    rows = [[text, pooled["floor"][key]] for key, text in names.items()]
    rows.append(
        [
            "mean of the target's class (not part of it)",
            pooled["class_mean_similarity"],
        ]
    )
    return (
        "What reaches which similarity without the attack",
        ["candidate", "SSIM"],
        rows,
    )
