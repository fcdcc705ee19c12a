"""The report of a server's attack: pictures first, then figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure

from experiments.report_parts import metrics_rows, privacy_facts, series_of
from experiments.server_gan_program import (
    REPRESENTATIVES,
    Arm,
    Evaluation,
    Experiment,
    load_looks,
)
from tff_leak.attacks.multitask_gan import OTHER, VICTIM
from tff_leak.metrics import properties
from tff_leak.metrics.properties import PropertyInputs, template_correlation
from tff_leak.metrics.score import REACHED_DIVERSITY, REACHED_SHARE
from tff_leak.report import figures, html
from tff_leak.runtime.run_directory import RunDirectory

_COLUMNS = 20
_PER_CLASS = 4  # pictures of a class in the overview

_ARMS = tuple(arm.value for arm in Arm)
_NOT_ASKED = "not asked for"
_ROWS = {
    "others": "others real",
    "private": "victim real",
    REPRESENTATIVES: "victim representatives",
    properties.OTHER: "asked as other",
    properties.VICTIM: "asked as victim",
    properties.CONTROL: "control as victim",
}
# {0} and {1}: what pictures with and without the property are called.
_SCORES = {
    "judge share": "judge_share",
    "correlation, {0}": "template_with",
    "correlation, {1}": "template_without",
    "nearer to {0}": "nearer_share",
    "SSIM to victim's": "ssim_private",
    "SSIM to others'": "ssim_others",
    "margin": "margin",
    "diversity": "diversity",
    "diversity ratio": "diversity_ratio",
}


def write_report(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> str:
    """Writes figures and `report.html`; returns the verdict's first sentence."""
    data, summary = experiment.data, evaluation.summary
    text, kind = verdict(summary)
    sections = [
        _overview(experiment, evaluation.drawn, directory),
        _over_rounds(experiment, directory),
        _tables(summary),
        _every_picture(evaluation.drawn),
    ]
    synthetic = " (synthetic pictures)" if data.source.synthetic else ""
    report = html.Report(
        title=f"Server GAN attack on {data.source.name}{synthetic}",
        verdict=text,
        verdict_good=kind,
        facts=_facts(summary),
        sections=sections,
        configuration=directory.config,
    )
    html.write(report, directory.report)
    return text.split("\n\n")[0]


def verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Says in plain language what the figures show.

    Args:
      summary: of a run, see `server_gan_program.evaluate`.

    Returns:
      (text, kind). 'leak' when for at least 80% of the victim's classes the pictures
      asked for as the victim's are nearer to real ones with the property and those
      asked for as others' to those without, the judge names at least 80% of them, and
      they vary half as much as real ones; 'none' when for no class, or `recovered` is
      not above 0; otherwise 'partial'. Where the control's pictures are nearer to those
      with the property in most cases, or the run ended before the attack began,
      'undefined'.
    """
    with_it, without = summary["words"]
    pooled = summary["pooled"]
    victim = pooled["sets"][properties.VICTIM]
    control = pooled["sets"].get(properties.CONTROL)
    share, gained = pooled["succeeded"], pooled["recovered"]
    ratio = victim["diversity_ratio"] or 0.0
    good = victim["judge_share"] >= REACHED_SHARE and ratio >= REACHED_DIVERSITY
    if summary["rounds_attacked"] == 0:
        kind, opening = "undefined", "The run ended before the attack began."
    elif control is not None and control["nearer_share"] > 0.5:
        kind, opening = "undefined", f"The control's pictures are {with_it} as well."
    elif share == 0 or (gained is not None and gained <= 0):
        kind = "none"
        opening = "The server did not draw what is the victim's and not others'."
    elif share >= REACHED_SHARE and good:
        kind, opening = "leak", "The server drew the victim's own kind of pictures."
    else:
        kind, opening = "partial", "The server drew what is the victim's in part."
    told = _told(pooled, with_it, without)
    quality = (
        f"The judge names {victim['judge_share']:.0%} of them rightly; they vary "
        f"{ratio:.2f} times as much as real pictures do."
    )
    checked = (
        "No control was run."
        if control is None
        else f"In the control, where the victim's pictures are {without}, "
        f"{control['nearer_share']:.0%} are nearer to those {with_it}."
    )
    return "\n\n".join([opening, told, f"{quality} {checked}"]), kind


def _told(pooled: Mapping[str, Any], with_it: str, without: str) -> str:
    """Which way the pictures lean."""
    victim = pooled["sets"][properties.VICTIM]
    other = pooled["sets"].get(properties.OTHER)
    against = "those of the control" if other is None else "those asked for as others'"
    text = (
        f"For {pooled['succeeded']:.0%} of the victim's classes "
        f"({_listed(pooled['targets'])}) the pictures asked for as the victim's are on "
        f"average nearer to real pictures {with_it}, and {against} to those {without}. "
        f"Of single pictures {victim['nearer_share']:.0%} of the first"
    )
    if other is not None:
        text += f" and {other['nearer_share']:.0%} of the second"
    return f"{text} are nearer to those {with_it}."


def _overview(
    experiment: Experiment, drawn: Sequence[PropertyInputs], directory: RunDirectory
) -> html.Section:
    """The paper's Fig. 4: real pictures, representatives and samples, by class."""
    together = _together(drawn)
    picture = figures.save(together, directory.figures / "attack_all.png")
    pictures = [("All classes: the first of each set", picture)]
    for one in drawn:
        sets = _sets_of(one)
        # Not chosen: the first of each.
        rows = {
            text: _first(sets[name], _COLUMNS // 2)
            for name, text in _ROWS.items()
            if name in sets
        }
        grid = figures.picture_rows(rows)
        picture = figures.save(grid, directory.figures / f"attack_{one.target}.png")
        name = experiment.data.source.class_names[one.target]
        pictures.append((f"Class {name}: the first of each set", picture))
    with_it, without = experiment.data.words
    text = (
        f"Only the victim's pictures are {with_it}. The server has the clients' "
        f"updates and pictures of its own, all {without}. Representatives are what it "
        "found in the victim's updates (section V-E); below them is what its generator "
        "draws when asked for the class as others' and as the victim's. Pictures are "
        "not selected; where there are fewer than columns, they are repeated."
    )
    return html.Section("What the server drew", text, figures=pictures, wide=True)


def _together(drawn: Sequence[PropertyInputs]) -> figure.Figure:
    """The first pictures of the sets that all classes have, classes side by side."""
    parts = [_sets_of(one) for one in drawn]
    rows = {}
    for name, text in _ROWS.items():
        if all(name in sets for sets in parts):
            first = [_first(sets[name], _PER_CLASS) for sets in parts]
            rows[text] = np.concatenate(first)
    return figures.picture_rows(rows)


def _sets_of(one: PropertyInputs) -> dict[str, np.ndarray]:
    """All sets of a class that are not empty, the real ones among them."""
    sets = {"others": one.others, "private": one.private, **one.sets}
    return {name: images for name, images in sets.items() if len(images)}


def _first(images: np.ndarray, count: int) -> np.ndarray:
    """The first pictures, from the start again where there are fewer."""
    return images[np.arange(count) % len(images)]


def _over_rounds(experiment: Experiment, directory: RunDirectory) -> html.Section:
    rows = metrics_rows(directory)
    drawings = {
        "task accuracy": figures.curves(
            series_of(rows, _ARMS, "task_accuracy"), "task accuracy", ylimits=(0, 1)
        )
    }
    for metric in ("category_share", "identity_share", "score", "generator_loss"):
        series = series_of(rows, _ARMS, metric)
        if series:
            name = metric.replace("_", " ")
            drawings[name] = figures.curves(series, name)
    leaning = _leaning(experiment, directory)
    if leaning:
        words = experiment.data.words
        drawings["leaning"] = figures.curves(
            leaning,
            f"correlation with those {words[0]} less {words[1]}",
            levels={"neither": 0.0},
        )
    pictures = []
    for name, drawing in drawings.items():
        path = directory.figures / f"{name.replace(' ', '_')}.png"
        pictures.append((name, figures.save(drawing, path)))
    text = (
        "Category share, identity share and score are what the server itself measures; "
        "it never sees what the others show."
    )
    return html.Section("Over the rounds", text, figures=pictures)


def _leaning(
    experiment: Experiment, directory: RunDirectory
) -> dict[str, tuple[list[int], list[float]]]:
    """Mean of the correlations' difference on snapshots, by arm and identity."""
    data = experiment.data
    templates = {label: data.templates(label) for label in data.held}
    series: dict[str, tuple[list[int], list[float]]] = {}
    names = {VICTIM: "as victim", OTHER: "as other"}
    for round_num, sets in load_looks(directory).items():
        found: dict[str, list[float]] = {}
        for (arm, label, identity), images in sets.items():
            with_it, without = templates[label]
            lean = template_correlation(images, with_it)
            lean = lean - template_correlation(images, without)
            found.setdefault(f"{arm}, {names[identity]}", []).append(float(lean.mean()))
        for name, values in found.items():
            xs, ys = series.setdefault(name, ([], []))
            xs.append(round_num)
            ys.append(float(np.mean(values)))
    return series


def _tables(summary: Mapping[str, Any]) -> html.Section:
    words = summary["words"]
    header = ["set", "samples", *(name.format(*words) for name in _SCORES)]

    def rows(one):
        return [
            [name, scored["samples"], *(scored[key] for key in _SCORES.values())]
            for name, scored in one["sets"].items()
        ]

    tables = [("All classes of the victim", header, rows(summary["pooled"]))]
    tables += [
        (f"Class {one['target']}", header, rows(one)) for one in summary["targets"]
    ]
    checked = [
        [one["target"], one["with"], one["without"]]
        for one in summary["template_check"]
    ]
    header = ["class", f"the victim's, {words[0]}", f"the control's, {words[1]}"]
    tables.append((f"Real pictures nearer to {words[0]}", header, checked))
    tables += _people_and_quality(summary)
    text = (
        "Victim and other: pictures drawn when asked for as the one or the other. "
        f"Control: as the victim's, where its pictures are {words[1]}. Reference: real "
        f"held-out pictures, {words[0]}. Correlation: with the mean of real pictures; "
        "margin: SSIM to the nearest of the victim's pictures less that to the nearest "
        "of others' of the class. Recovered: the victim's margin between floor (0) and "
        "reference (1), the floor being the largest of the control's margin, that of "
        "the pictures asked for as others', and 0, as pictures that show nothing have "
        "one of about 0. How far the templates can be "
        "trusted say real pictures that they are not made of."
    )
    return html.Section("All figures", text, tables=tables)


def _people_and_quality(summary: Mapping[str, Any]) -> list[tuple]:
    """Tables that only faces have: whom pictures show, and Table III's score."""
    if "identity" not in summary:
        return []
    people = summary["identity"]
    header = ["person", *people["pooled"]["sets"]]
    rows = [
        [name, *(one["sets"][key] for key in header[1:])]
        for name, one in (
            *((one["target"], one) for one in people["targets"]),
            ("all", people["pooled"]),
        )
    ]
    nearest = f"Share whose nearest picture of {people['people']} people is the right"
    quality = summary["quality"]
    columns = list(next(iter(quality.values())))
    scored = [[arm, *(one[key] for key in columns)] for arm, one in quality.items()]
    names = [column.replace("_", " ") for column in columns]
    return [
        (f"{nearest} person's", header, rows),
        (
            "All classes, as the victim's, against real pictures",
            ["arm", *names],
            scored,
        ),
    ]


def _every_picture(drawn: Sequence[PropertyInputs]) -> html.Section:
    pictures = []
    for one in drawn:
        for name in (properties.VICTIM, properties.OTHER):
            images = one.sets.get(name, one.private[:0])
            if not len(images):
                continue
            grid = figures.picture_rows(
                {
                    f"{start + 1}": images[start : start + _COLUMNS]
                    for start in range(0, len(images), _COLUMNS)
                }
            )
            caption = f"Class {one.target}, asked for as {name}: all that were scored"
            pictures.append((caption, figures.png(grid)))
    return html.Section("Every picture", figures=pictures, wide=True)


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, object]]:
    pooled = summary["pooled"]
    victim = pooled["sets"][properties.VICTIM]
    other = pooled["sets"].get(properties.OTHER, {})
    with_it, without = summary["words"]
    return [
        ("classes that lean as they should", pooled["succeeded"]),
        ("recovered", pooled["recovered"]),
        (f"correlation, {with_it}, as victim", victim["template_with"]),
        (f"correlation, {without}, as victim", victim["template_without"]),
        (f"correlation, {with_it}, as other", other.get("template_with", _NOT_ASKED)),
        (
            f"correlation, {without}, as other",
            other.get("template_without", _NOT_ASKED),
        ),
        ("judge share, as victim", victim["judge_share"]),
        ("diversity ratio, as victim", victim["diversity_ratio"]),
        *(
            (f"task accuracy, {arm}", accuracy)
            for arm, accuracy in summary["task_accuracy"].items()
        ),
        ("judge's accuracy", summary["judge_accuracy"]),
        ("mode", summary["mode"]),
        ("server", summary["server"]),
        ("server sees", summary["view"]),
        ("rounds", summary["rounds"]),
        ("seed", summary["seed"]),
        *privacy_facts(summary),
    ]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
