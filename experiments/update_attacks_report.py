"""The report of a server's small attack: pictures or curves first, then figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report_parts import (
    figures_section,
    metrics_rows,
    nouns_of,
    privacy_facts,
    series_of,
)
from experiments.update_attacks_evaluation import Evaluation
from experiments.update_attacks_program import Arm, Attack, Experiment
from tff_leak.metrics.reconstruction import TargetInputs
from tff_leak.metrics.score import REACHED_SHARE
from tff_leak.metrics.similarity import nearest
from tff_leak.report import figures, html
from tff_leak.report.html import LEAK_FROM, PARTIAL_FROM
from tff_leak.runtime.run_directory import RunDirectory

_COLUMNS = 20
_CHANCE = 0.01
"""A p-value below this is no chance."""

_ARMS = tuple(arm.value for arm in Arm)
_TITLES = {
    Attack.GRADIENT_INVERSION: "Gradient inversion",
    Attack.FIRST_LAYER: "Inputs of the first layer",
    Attack.MEMBERSHIP: "Membership inference",
}
_VIEWS = {
    "rows": "every client's update",
    "noised_rows": "every client's update, with noise that the client added",
    "sum": "the sum of all updates, and no client's own",
}


def write_report(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> str:
    """Writes figures and `report.html`; returns the verdict's first sentence."""
    source, summary = experiment.data.source, evaluation.summary
    member = experiment.settings.attack is Attack.MEMBERSHIP
    if member:
        text, kind = membership_verdict(summary)
        sections = [
            _membership_curves(summary, directory),
            _membership_table(summary),
        ]
    else:
        text, kind = pictures_verdict(summary)
        sections = [
            _pictures(evaluation, directory),
            _accuracy(directory),
            figures_section(summary, nouns_of(source)[0]),
            _every_picture(evaluation),
        ]
    synthetic = " (synthetic pictures)" if source.synthetic else ""
    report = html.Report(
        title=f"{_TITLES[experiment.settings.attack]} on {source.name}{synthetic}",
        verdict=text,
        verdict_good=kind,
        facts=_facts(summary),
        sections=sections,
        configuration=directory.config,
        scores={} if member else html.scores(summary["pooled"]),
    )
    html.write(report, directory.report)
    return text.split("\n\n")[0]


def pictures_verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Says in plain language what pictures show; see `html.verdict`.

    Returns:
      (text, kind). 'undefined' where `recovered` is not; 'leak' when it is at least
      `LEAK_FROM` and the judge names at least 80% of the pictures rightly; 'none' when
      it is below `PARTIAL_FROM` and pictures do not tell whose images they are of (at
      least half of them nearest to the victim's, and of the control's fewer); otherwise
      'partial'.
    """
    pooled, kind = summary["pooled"], _pictures_kind(summary)
    attack, control = pooled["attack"], pooled["control"]
    opening = {
        "undefined": "Similarity cannot tell here whether images leaked.",
        "none": "The server did not reconstruct the victims' images.",
        "leak": "The server reconstructed the victims' own images.",
        "partial": "The server reconstructed the victims' images in part.",
    }[kind]
    told = (
        f"Similarity to the victims' images is {attack['ssim']:.2f}, where 1 is the "
        f"image itself. What needs no leak of theirs reaches "
        f"{pooled['floor']['value']:.2f}; other real images of the class have "
        f"{pooled['reference']['ssim']:.2f}. The judge names "
        f"{attack['judge_share']:.0%} of the pictures rightly, and "
        f"{summary['identified']['attack']:.0%} are nearer to an "
        "image of the victim's than to any other real one of the class."
    )
    checked = (
        "Where the victims hold other images of the same classes, the same attack's "
        f"pictures have a similarity of {control['ssim']:.2f} to these, and "
        f"{summary['identified']['control']:.0%} of them are nearest to one. To "
        f"{summary['found']['attack']:.0%} of the victims' images some picture is "
        f"nearer than any other real one (control: {summary['found']['control']:.0%})."
    )
    return "\n\n".join([opening, told, checked, _seen(summary)]), kind


def _pictures_kind(summary: Mapping[str, Any]) -> str:
    pooled, identified = summary["pooled"], summary["identified"]
    gained = pooled["recovered"]
    if gained is None:
        return "undefined"
    told_apart = identified["attack"] >= 0.5 > identified["control"]
    if gained < PARTIAL_FROM and not told_apart:
        return "none"
    good = pooled["attack"]["judge_share"] >= REACHED_SHARE
    return "leak" if gained >= LEAK_FROM and good else "partial"


def membership_verdict(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Says in plain language what losses tell of membership.

    Returns:
      (text, kind). 'undefined' when the losses of examples that nobody holds tell them
      from others that nobody holds (p < .01); 'leak' when the advantage is at least
      `PARTIAL_FROM` and no chance; 'partial' when it is no chance, but smaller;
      otherwise 'none'.
    """
    found = summary["membership"]
    attack, control = found["attack"], found["held_out"]
    sure = attack["p_value"] < _CHANCE
    if control["p_value"] < _CHANCE:
        kind, opening = "undefined", "The control tells groups apart that are alike."
    elif sure and attack["advantage"] >= PARTIAL_FROM:
        kind, opening = (
            "leak",
            "The shared model tells who was among its training data.",
        )
    elif sure:
        kind, opening = (
            "partial",
            "The shared model tells a little of its training data.",
        )
    else:
        kind, opening = "none", "The shared model does not tell its training data here."
    low, high = attack["auc_interval"]
    told = (
        "An example of the training data has a lower loss than one that nobody holds "
        f"in {attack['auc']:.0%} of all pairs (95% interval over examples {low:.0%} to "
        f"{high:.0%}; 50% is chance). At the best threshold the share of members "
        f"found exceeds that of others by {attack['advantage']:.2f}, which chance "
        f"alone gives with probability {attack['p_value']:.2g}."
    )
    checked = (
        f"The same of the initial model: {found['initial']['advantage']:.2f}; between "
        f"examples that nobody holds: {control['advantage']:.2f}."
    )
    return "\n\n".join([opening, told, checked, _seen(summary)]), kind


def _seen(summary: Mapping[str, Any]) -> str:
    """What the server sees, and what of it this attack uses."""
    text = f"The server sees {_VIEWS[summary['threat']['view']]}."
    if "membership" in summary:
        return f"{text} This attack uses the shared model alone."
    if summary["pooled_rounds"] > 1:
        text += f" It takes what it saw in rounds {_rounds(summary)} together."
    if summary["threat"]["view"] == "sum":
        return f"{text} So it looks for the images of all clients at once."
    return text


def _pictures(evaluation: Evaluation, directory: RunDirectory) -> html.Section:
    """Under each of the victims' images what was claimed, as far as there is room."""
    images: dict[str, list[np.ndarray]] = {"victim": [], "attack": [], "control": []}
    for one in evaluation.inputs:
        images["victim"] += list(one.private)
        images["attack"] += list(_closest(one, one.attack, evaluation))
        images["control"] += list(_closest(one, one.control, evaluation))
    drawn = figures.picture_rows(
        {name: np.stack(row[:_COLUMNS]) for name, row in images.items()}
    )
    picture = figures.save(drawn, directory.figures / "attack_all.png")
    text = (
        "Upper row: the victims' images. Below each stands what the attack claims of "
        "its class (of several the nearest in L1), and what it claims where the "
        "victims hold other images of the class. A class of which nothing is claimed "
        "has a blank picture."
    )
    pictures = [("The victims' images, the attack's, the control's", picture)]
    return html.Section("What the server found", text, figures=pictures, wide=True)


def _closest(
    one: TargetInputs, claimed: np.ndarray, evaluation: Evaluation
) -> np.ndarray:
    """For each private image the picture that is nearest to it."""
    return claimed[nearest(one.private, claimed, window=evaluation.window)[1]]


def _every_picture(evaluation: Evaluation) -> html.Section:
    """All pictures that were scored, so that none is hidden."""
    pictures = []
    for one, victim in zip(evaluation.inputs, evaluation.owners, strict=True):
        shown = one.attack[:_COLUMNS]
        private = one.private[nearest(shown, one.private, window=evaluation.window)[1]]
        drawn = figures.reconstruction_grid(
            shown, private, columns=_COLUMNS, window=evaluation.window
        )
        caption = f"Client {victim}, class {one.target}: {len(one.attack)} claimed"
        pictures.append((caption, figures.png(drawn)))
    text = (
        f"Of each class the first {_COLUMNS} at most, with the nearest private image."
    )
    return html.Section("Every class of every victim", text, figures=pictures)


def _accuracy(directory: RunDirectory) -> html.Section:
    series = series_of(metrics_rows(directory), _ARMS, "task_accuracy")
    drawn = figures.curves(series, "task accuracy", ylimits=(0, 1))
    picture = figures.save(drawn, directory.figures / "task_accuracy.png")
    return html.Section("Over the rounds", figures=[("task accuracy", picture)])


def _membership_curves(
    summary: Mapping[str, Any], directory: RunDirectory
) -> html.Section:
    rows, arm = metrics_rows(directory), Arm.ATTACK.value
    pictures = []
    for name, label in (("advantage", "advantage"), ("auc", "area under the curve")):
        series = {
            text: series_of(rows, [arm], metric)[arm]
            for text, metric in (
                ("members", name),
                ("control: nobody's examples", f"control_{name}"),
            )
        }
        levels = {"initial model": summary["membership"]["initial"][name]}
        drawn = figures.curves(series, label, levels=levels)
        picture = figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((label, picture))
    text = (
        "Of the shared model after each round, which every participant sees. A loss "
        "below a threshold is taken for membership; the advantage is that of the best "
        "threshold, and so above 0 by chance alone."
    )
    accuracy = _accuracy(directory)
    return html.Section("Over the rounds", text, figures=[*pictures, *accuracy.figures])


def _membership_table(summary: Mapping[str, Any]) -> html.Section:
    found = summary["membership"]
    names = {
        "attack": "final model, members",
        "initial": "initial model, members",
        "held_out": "final model, examples that nobody holds",
    }
    header = [
        "what",
        "AUC",
        "from",
        "to",
        "advantage",
        "from",
        "to",
        "p",
        "found at 1%",
    ]
    rows = [
        [
            text,
            found[key]["auc"],
            *found[key]["auc_interval"],
            found[key]["advantage"],
            *found[key]["advantage_interval"],
            found[key]["p_value"],
            found[key]["true_positive_rate"],
        ]
        for key, text in names.items()
    ]
    counts = found["counts"]
    text = (
        f"{counts['members']} members (of {counts['members_trained_on']}) against "
        f"{counts['others']} examples that nobody holds; the control has "
        f"{counts['held_out']} more of these in the members' place. Each class has the "
        "same share of each part, drawn by the seed. Intervals are 95%, over "
        "examples (bootstrap), of this one model. The advantage is that of the best "
        "threshold, which chance raises, the low end of its interval not. p: how often "
        "chance alone gives the advantage or more. Found at 1%: the share of "
        "members found where at most one in a hundred others is taken for one."
    )
    return html.Section("All figures", text, tables=[("Membership", header, rows)])


def _rounds(summary: Mapping[str, Any]) -> str:
    first, number = summary["attack_round"], summary["pooled_rounds"]
    return f"{first} to {first + number - 1}" if number > 1 else str(first)


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, object]]:
    if "membership" in summary:
        attack = summary["membership"]["attack"]
        facts = [("advantage", attack["advantage"]), ("AUC", attack["auc"])]
    else:
        pooled = summary["pooled"]
        facts = [
            ("recovered", pooled["recovered"]),
            ("judge share", pooled["attack"]["judge_share"]),
            ("nearest to an image of the victim's", summary["identified"]["attack"]),
            ("the same, control", summary["identified"]["control"]),
            ("victims' images found", summary["found"]["attack"]),
            ("labels right", summary["labels_right"]),
            ("judge's accuracy", summary["judge_accuracy"]),
            ("attacked rounds", _rounds(summary)),
        ]
    facts += [
        ("task accuracy", summary["task_accuracy"][Arm.ATTACK.value]),
        ("server sees", summary["threat"]["view"]),
        ("clients", summary["clients"]),
        ("examples of each", summary["examples"]),
        ("rounds", summary["rounds"]),
        ("seed", summary["seed"]),
    ]
    return facts + privacy_facts(summary)
