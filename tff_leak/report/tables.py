"""Tables in Markdown, and figures that several kinds of runs share in them."""

import re
from collections.abc import Mapping, Sequence

from tff_leak.metrics.score import confidence_interval

# Of a summary that is older than the figure.
UNMEASURED = "not measured"
LATE = "recovered, last half of rounds"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a table in Markdown; None is "not defined", numbers have 3 digits."""
    lines = [header, ["---"] * len(header), *([_cell(v) for v in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page_path(preset: str) -> str:
    """Returns where a preset's results are, seen from `results.md`."""
    return f"results/{preset}/README.md"


def anchor(title: str) -> str:
    """Returns what a link to a heading ends with, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def preset_link(preset: str) -> str:
    """Returns a link to a preset's page, for `results.md`."""
    return f"[{preset}]({page_path(preset)})"


def sparse_table(rows: Sequence[Mapping[str, object]], missing: str = "not run") -> str:
    """Returns a table of all columns that a row has; `missing` where one lacks it."""
    longest = max(rows, key=len)
    names = [*longest, *(name for row in rows for name in row if name not in longest)]
    names = list(dict.fromkeys(names))
    return table(names, [[row.get(name, missing) for name in names] for row in rows])


def without_empty(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Returns the rows without what is empty in all of them."""
    filled = {name for row in rows for name, value in row.items() if value != ""}
    return [{name: row[name] for name in row if name in filled} for row in rows]


def or_unmeasured(
    rows: Sequence[Mapping[str, object]], measured: Sequence[str]
) -> list[dict[str, object]]:
    """Returns rows that tell what was not measured yet from what does not apply.

    Args:
      rows: cells by column.
      measured: how the columns' names end.

    Returns:
      The rows, where a run has none of what another one has, with `UNMEASURED` for it.
    """
    # No set: columns have one order.
    known = dict.fromkeys(
        name for row in rows for name in row if name.endswith(tuple(measured))
    )
    return [
        {**row, **{name: row.get(name, UNMEASURED) for name in known}} for row in rows
    ]


def target_figures(one: Mapping) -> dict[str, object]:
    """Returns what `evaluate_targets` found of one target, by column."""
    control, diverse = one["control"], one["reached"]["diversity_ratio"]
    return {
        "target": one["target"],
        "recovered": one["recovered"],
        "recovered, closest class": one.get("recovered_closest", UNMEASURED),
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


def against(one: Mapping, name: str) -> dict[str, object]:
    """Returns the figures of an extra control, where it was run."""
    figures = one["extra_controls"].get(name)
    if figures is None:
        return {}
    keys = {"recovered": "recovered", "judge share": "judge_share", "SSIM": "ssim"}
    return {
        f"{name} {text}": figures.get(key, UNMEASURED) for text, key in keys.items()
    }


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


def recovered_lines(summaries: Sequence[Mapping]) -> str:
    """Returns `recovered` over seeds, for each set of targets and for all of them."""
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


def interval_text(
    mean: float | None,
    interval: Sequence[float] | None,
    seeds: int,
    digits: int = 2,
) -> str:
    """Returns a mean over seeds in words, with its interval where there is one."""
    if mean is None:
        return "not defined" if seeds == 1 else "not defined in some seeds"
    text = f"{mean:.{digits}f}"
    if interval is None:
        return f"{text} (one seed)"
    low, high = (f"{end:.{digits}f}" for end in interval)
    return f"{text} [{low}, {high}] ({seeds} seeds)"


def mean_of(values: Sequence[float | None]) -> float | None:
    """Returns the mean; None where a value is missing."""
    if None in values:
        return None
    return sum(values) / len(values)


def seconds_text(seconds: float | None) -> object:
    """Returns a run's time in whole seconds, or that it is not known."""
    # A run that was killed and gone on with does not know how long it took.
    return "unknown" if seconds is None else round(seconds)


def epsilon_text(value: float | str) -> str:
    """Returns an epsilon, of which the infinite one is a word."""
    return f"{float(value):.3g}"


def _cell(value: object) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
