"""The report of a leak matrix: which defence stops which attack, and at what price."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.leak_matrix_cells import NO_DEFENCE, Measure
from experiments.leak_matrix_program import Status, run_directory
from tff_leak.report import figures, html
from tff_leak.report.html import PARTIAL_FROM
from tff_leak.report.results_tables import code_text
from tff_leak.report.tables import interval_text
from tff_leak.runtime.run_directory import RunDirectory

ACCURACY_LOSS = 0.05
"""A defence that costs at most so much task accuracy has kept it."""

_HEADLINES = {
    "leak": "An attack that no defence stops",
    "partial": "Stopped, at a price",
    "none": "Each attack was stopped by some defence",
    "undefined": "Not decided",
}
_WORDS = {
    Status.FAILED.value: "failed",
    Status.REFUSED.value: "refused",
    Status.NOT_APPLICABLE.value: "does not apply",
}
_COLUMNS = (
    "last half of the rounds",
    "control's",
    "judge share",
    "reached",
    "task accuracy",
    "epsilon",
    "seconds a run",
)

_NOTES = {
    "control's": (
        " With class keys another model is trained, whose accuracy differs for that as "
        "well; control's: recovered in the run's own control, where no target is known "
        "and the class counts that the pictures show best."
    ),
    "judge share": " Judge share as explained below.",
    "reached": " Reached as explained below.",
}
"""What is said of a column of `recovered` where there is one."""

NAMED_SHARE = 0.5
"""Of pictures that the judge takes for the target: from here on the class is shown."""

IDENTIFIED_SHARE = 0.5
"""Of pictures nearest to the victims' own: from here on whose they are is told."""

_WORST_FIRST = ("leak", "partial", "undefined", "none")
_BREAK = "\n\n"  # between paragraphs

Cells = Sequence[Mapping[str, Any]]
"""Dictionaries of `leak_matrix_program.collect`."""


def write_report(summary: Mapping[str, Any], directory: RunDirectory) -> str:
    """Writes figures and `report.html`; returns the verdict's first paragraph."""
    cells = summary["cells"]
    text, kind = verdict(summary)
    sections = [_overview(summary)]
    for name in summary["attacks"]:
        sections.append(_of_attack(_column(cells, name), directory))
    sections.append(_without_figures(cells))
    counts = summary["counts"]
    report = html.Report(
        title=f"Leak matrix on {summary['matrix']}{_quick(summary)}",
        verdict=text,
        verdict_good=kind,
        headline=_HEADLINES[kind],
        facts=[
            ("attacks", len(summary["attacks"])),
            ("defences, with none", len(summary["defences"])),
            ("seeds", ", ".join(map(str, summary["seeds"]))),
            ("versions of the code, and their runs", code_text(summary)),
            ("cells measured", counts[Status.MEASURED.value]),
            ("cells failed", counts[Status.FAILED.value]),
            ("cells refused", counts[Status.REFUSED.value]),
            ("cells that do not apply", counts[Status.NOT_APPLICABLE.value]),
        ],
        sections=[section for section in sections if section.tables],
        configuration=directory.config
        | {name: summary[name] for name in ("attacks", "defences", "seeds")},
    )
    html.write(report, directory.report)
    return f"{_HEADLINES[kind]}: {text.split(_BREAK)[0]}"


def verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Says in plain language which attacks are stopped, and what that costs.

    An attack is stopped where what leaks is below `html.PARTIAL_FROM`, before all
    measured adversaries of a defence's family, and a defence has kept the task accuracy
    that is at most `ACCURACY_LOSS` below that without one; means over seeds. Of an
    attack that is looked at over the rounds, what leaks in the last half of them has to
    be below as well: its last round alone is luck. Nor may the judge name as many as
    `NAMED_SHARE` of its pictures rightly: those of one shape only are far from the
    victim's, and show the class all the same. Nor may `IDENTIFIED_SHARE` of what an
    attack on updates finds be nearest to the victims' own images.

    Returns:
      (text, kind). 'leak' when an attack works that no measured defence stops,
      'partial' when one is only stopped where accuracy is lost, 'undefined' when one
      was not measured or leaks nothing undefended, otherwise 'none': the worst of all
      attacks, of which the text tells first.
    """
    found = [_attack_verdict(_column(summary["cells"], n)) for n in summary["attacks"]]
    found.sort(key=lambda one: _WORST_FIRST.index(one[1]))
    caveat = (
        f"Stopped: less than {PARTIAL_FROM:g} leaks, in the mean over seeds, at the "
        "end and, where that was looked at, in the mean of the last half of the "
        f"rounds, the judge names fewer than {NAMED_SHARE:.0%} of the pictures, and "
        f"fewer than {IDENTIFIED_SHARE:.0%} of those of attacks on updates are nearest "
        "to the victims' own images, or as many of the control's are. Of the attacks "
        "only those on updates know of noise, and an adversary that estimates a class "
        "key searches for it: others that adapt may do better."
    )
    failed = summary["counts"][Status.FAILED.value]
    if failed:
        caveat += f" Failed cells: {failed}, listed below with their reasons."
    return _BREAK.join([*(text for text, _ in found), caveat]), found[0][1]


def _attack_verdict(cells: Cells) -> tuple[str, str]:
    """The sentences about one attack."""
    title, measure = cells[0]["attack_title"], cells[0]["measure"]
    measured = {cell["defence"]: cell for cell in cells if _is_known(cell)}
    bare = measured.pop(NO_DEFENCE.name, None)
    if bare is None:
        return f"{title}: not measured without a defence.", "undefined"
    leaked, accuracy = bare["leakage"]["mean"], bare["task_accuracy"]["mean"]
    begin = f"{title}: {measure} {leaked:.2f} without a defence"
    if _stops(bare):
        return f"{begin}, so these runs say nothing about defences.", "undefined"
    begin += f", at a task accuracy of {accuracy:.2f}."
    lost = [cell for cell in cells if cell["status"] == Status.FAILED.value]
    if lost:
        names = "; ".join(cell["defence_title"] for cell in lost)
        begin += f" Not known, as a run failed: {names}."
    if not measured:
        return f"{begin} No defence was measured.", "undefined"
    through = {c["family"] for c in measured.values() if not _stops(c)}
    # One failed adversary of a family may be the one that gets through.
    failed = {cell["family"] for cell in lost}
    stopped = [c for c in measured.values() if c["family"] not in through | failed]
    if not stopped:
        return f"{begin} No measured defence stops it.", "leak"
    kept = [
        cell
        for cell in stopped
        if cell["task_accuracy"]["mean"] >= accuracy - ACCURACY_LOSS
    ]
    if kept:
        return f"{begin} Stopped, with accuracy kept, by {_listed(kept)}.", "none"
    return (
        f"{begin} Stopped only where accuracy is lost: {_listed(stopped)}.",
        "partial",
    )


def _stops(cell: Mapping[str, Any]) -> bool:
    """Whether next to nothing leaks; advantages are above 0 by chance: see controls."""
    leaked = cell["leakage"]["mean"]
    if cell["measure"] == Measure.ADVANTAGE.value:
        leaked -= cell["control"]["mean"] or 0.0
    late = _late(cell)
    named = cell["judge_share"]["mean"]
    return (
        leaked < PARTIAL_FROM
        and (late is None or late < PARTIAL_FROM)
        and (named is None or named < NAMED_SHARE)
        and not _tells_whose(cell)
    )


def _tells_whose(cell: Mapping[str, Any]) -> bool:
    """Whether most pictures are nearest to the victim's own, and of the control's not.

    By the rule of a run's own verdict (`update_attacks_report`).
    Of attacks on updates; however grainy they are, they then give away whose they are.
    """
    measured = [cell.get(name) for name in ("identified", "identified_control")]
    shares = [one and one["mean"] for one in measured]  # Older cells have none.
    if None in shares:
        return False
    return shares[0] >= IDENTIFIED_SHARE > shares[1]


def _late(cell: Mapping[str, Any]) -> float | None:
    """What leaks in the last half of the rounds; None where it was not looked at."""
    return cell["late_leakage"]["mean"]


def _listed(cells: Cells) -> str:
    return "; ".join(
        f"{cell['defence_title']} ({cell['leakage']['mean']:.2f}, accuracy "
        f"{cell['task_accuracy']['mean']:.2f})"
        for cell in cells
    )


def _is_known(cell: Mapping[str, Any]) -> bool:
    """Whether all its seeds have both of the figures that are compared."""
    return cell["status"] == Status.MEASURED.value and None not in (
        cell["leakage"]["mean"],
        cell["task_accuracy"]["mean"],
    )


def _column(cells: Cells, attack: str) -> Cells:
    return [cell for cell in cells if cell["attack"] == attack]


def _quick(summary: Mapping[str, Any]) -> str:
    return " (quick)" if summary["quick"] else ""


def _overview(summary: Mapping[str, Any]) -> html.Section:
    columns = [_column(summary["cells"], name) for name in summary["attacks"]]
    rows = [
        [cells[0]["defence_title"], *(_overview_cell(cell) for cell in cells)]
        for cells in zip(*columns, strict=True)
    ]
    header = [
        "defence",
        *(f"{c[0]['attack_title']}: {c[0]['measure']}" for c in columns),
    ]
    text = (
        "Means over seeds with 95% intervals (Student t), and a link to each seed's "
        "report. Recovered: 0 is what needs no leak, 1 is as close as other real "
        "images (for a server that wants the very images, the image itself); floor and "
        "reference are those of the run without a defence, of the same seed, with its "
        "control. Last half: the mean of the last half of the rounds, by the same "
        "floor and reference, steadier where pictures wander from round to round. An "
        "adversary that guesses a class key is measured against its own "
        "control, and so is a server's GAN: under a defence that spoils its pictures "
        "those of the control are as far from anybody's, which a floor of other "
        "pictures would count as a leak. Advantage of membership inference: true "
        "positive rate less false positive rate by the best threshold, which chance "
        "alone makes larger than 0: see its control. The runs' own reports measure by "
        "their own floors, which without a control can be lower."
    )
    return html.Section("What leaks", text, tables=[("By defence", header, rows)])


def _overview_cell(cell: Mapping[str, Any]) -> html.Linked:
    links = _links(cell)
    if cell["status"] == Status.FAILED.value and not links:
        return html.Linked(_WORDS[cell["status"]])
    if not cell["runs"]:
        return html.Linked(_WORDS[cell["status"]])
    text = interval_text(**cell["leakage"])
    if _late(cell) is not None:
        text += f", last half {_late(cell):.2f}"
    if cell["status"] == Status.FAILED.value:
        text += ", and failed"
    return html.Linked(text, links)


def _links(cell: Mapping[str, Any]) -> list[tuple[str, str]]:
    seeds = [run["seed"] for run in cell["runs"] if not run["error"]]
    names = cell["attack"], cell["defence"]
    return [
        (f"seed {seed}", f"{run_directory(*names, seed)}/report.html") for seed in seeds
    ]


def _of_attack(cells: Cells, directory: RunDirectory) -> html.Section:
    """One attack's figures, and its frontier."""
    attack, measure = cells[0]["attack"], cells[0]["measure"]
    rows = [_row(cell) for cell in cells if _links(cell)]
    if not rows:
        return html.Section(cells[0]["attack_title"])
    points = {
        cell["defence_title"]: (
            cell["task_accuracy"]["mean"],
            cell["leakage"]["mean"],
            cell["leakage"]["interval"],
        )
        for cell in cells
        if _is_known(cell)
    }
    pictures = []
    if points:
        drawn = figures.frontier(points, "task accuracy", measure)
        picture = figures.save(drawn, directory.figures / f"frontier_{attack}.png")
        caption = "Leakage against task accuracy; the line joins the best trade-offs"
        pictures = [(caption, picture)]
    text = (
        "Task accuracy is the shared model's on held-out images (of a client's GAN "
        "right after the adversary's turn); epsilon the most exposed participant's, "
        "largest of the seeds, at its run's delta and of all its rounds, of which an "
        "attack on updates sees one. Epsilons of different mechanisms protect "
        "different things and do not compare."
    )
    header, rows = _without_empty(["defence", measure, *_COLUMNS], rows)
    if measure == Measure.RECOVERED.value:
        text += "".join(note for name, note in _NOTES.items() if name in header)
    return html.Section(
        cells[0]["attack_title"],
        text,
        figures=pictures,
        tables=[("By defence", header, rows)],
    )


def _without_empty(
    header: Sequence[str], rows: Sequence[Sequence[object]]
) -> tuple[list[str], list[list[object]]]:
    """A table without the columns that say nothing about this attack."""
    columns = [
        (name, column)
        for name, column in zip(header, zip(*rows, strict=True), strict=True)
        if any(column)
    ]
    names = [name for name, _ in columns]
    return names, [list(row) for row in zip(*(c for _, c in columns), strict=True)]


def _row(cell: Mapping[str, Any]) -> list[object]:
    runs = [run for run in cell["runs"] if not run["error"]]
    epsilon = cell["epsilon"]
    return [
        cell["defence_title"],
        interval_text(**cell["leakage"]),
        "" if _late(cell) is None else interval_text(**cell["late_leakage"]),
        _mean(cell["control"]),
        _mean(cell["judge_share"]),
        "" if cell["reached"] is None else f"{cell['reached']} of {len(runs)}",
        _mean(cell["task_accuracy"]),
        "none" if epsilon is None else f"{float(epsilon):.3g}",
        _mean(cell["seconds"], 0, "unknown"),
    ]


def _mean(figure: Mapping[str, Any], digits: int = 3, missing: str = "") -> str:
    mean = figure["mean"]
    return missing if mean is None else f"{mean:.{digits}f}"


def _without_figures(cells: Cells) -> html.Section:
    rows = [
        [
            cell["attack_title"],
            cell["defence_title"],
            _WORDS[cell["status"]],
            cell["reason"],
        ]
        for cell in cells
        if cell["reason"]
    ]
    tables = []
    if rows:
        tables = [("By attack", ["attack", "defence", "what", "reason"], rows)]
    text = (
        "Refused: the combination contradicts itself, by the threat model. The same "
        "command tries failed cells again."
    )
    return html.Section("Cells without all figures", text, tables=tables)
