"""The report of a client GAN run: pictures first, then figures, then everything."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.client_gan_program import Arm, Data, Evaluation, Experiment
from experiments.report_parts import figures_section, metrics_rows, nouns_of, series_of
from tff_leak.metrics.similarity import nearest
from tff_leak.report import figures, html
from tff_leak.runtime import snapshots
from tff_leak.runtime.run_directory import RunDirectory

_SHOWN = 12
_COLUMNS = 20

_ARMS = tuple(arm.value for arm in Arm)
_ARM_TEXTS = {
    Arm.ATTACK: (
        "Reconstructed",
        "Each lower picture was drawn by the adversary's generator; above it stands "
        "the victim's image that is nearest to it in L1. The adversary never saw any "
        "of the upper ones. Samples are not selected: they are the first that the "
        "generator drew.",
    ),
    Arm.CONTROL: (
        "Control: nobody holds the target",
        "The same adversary, settings and seed, in a federation from which the target "
        "class was removed. Whatever resembles the target here does not come from the "
        "victim. Above each stands the nearest of the images that the victim would "
        "have held.",
    ),
    Arm.PASSIVE: (
        "Passive adversary",
        "The same adversary without influence: it trains its generator on the shared "
        "model but injects no fakes.",
    ),
}


def write_report(
    experiment: Experiment,
    evaluation: Evaluation,
    directory: RunDirectory,
) -> str:
    """Writes figures and `report.html`; returns the verdict's first sentence."""
    data, pooled = experiment.data, evaluation.summary["pooled"]
    nouns = nouns_of(data.source)
    steps = evaluation.summary["generator_steps"].get(Arm.ATTACK.value)
    text, kind = html.verdict(pooled, nouns=nouns, steps=steps)
    sections = [_pictures(data, evaluation, arm, directory) for arm in evaluation.drawn]
    sections.append(_over_rounds(experiment, evaluation, directory))
    sections.append(figures_section(evaluation.summary, nouns[0]))
    sections.append(_every_reconstruction(data, evaluation))
    synthetic = " (synthetic pictures)" if data.source.synthetic else ""
    report = html.Report(
        title=f"Client GAN attack on {data.source.name}{synthetic}",
        verdict=text,
        verdict_good=kind,
        facts=_facts(evaluation),
        sections=sections,
        configuration=directory.config,
        scores=html.scores(pooled),
    )
    html.write(report, directory.report)
    return text.split("\n\n")[0]


def _pictures(
    data: Data, evaluation: Evaluation, arm: Arm, directory: RunDirectory
) -> html.Section:
    title, text = _ARM_TEXTS[arm]
    pictures = []
    for target, images in evaluation.drawn[arm].items():
        shown = images[:_SHOWN]
        drawn = figures.reconstruction_grid(
            shown,
            _nearest_private(data, target, shown, evaluation.window),
            columns=_SHOWN,
            window=evaluation.window,
        )
        picture = figures.save(drawn, directory.figures / f"{arm.value}_{target}.png")
        name = data.source.class_names[target]
        caption = f"{title}, target {name}: nearest private image above each sample"
        pictures.append((caption, picture))
    return html.Section(title, text, figures=pictures)


def _nearest_private(
    data: Data, target: int, images: np.ndarray, window: tuple[int, int] | None
) -> np.ndarray:
    """For each image the victim's image of the target that is nearest to it in L1."""
    victim = data.federation.data[data.federation.victim(target)]
    private = victim.of_class(target).images
    return private[nearest(images, private, window=window)[1]]


def _every_reconstruction(data: Data, evaluation: Evaluation) -> html.Section:
    """All samples of the attack, so that none is hidden."""
    pictures = []
    for target, images in evaluation.drawn[Arm.ATTACK].items():
        private = _nearest_private(data, target, images, evaluation.window)
        for start in range(0, len(images), _COLUMNS):
            rows = slice(start, start + _COLUMNS)
            drawn = figures.reconstruction_grid(
                images[rows], private[rows], columns=_COLUMNS, window=evaluation.window
            )
            caption = (
                f"Target {data.source.class_names[target]}, samples {start + 1} to "
                f"{start + len(images[rows])}"
            )
            pictures.append((caption, figures.png(drawn)))
    text = (
        "All samples that the figures were computed from, in the order in which the "
        "generator drew them, with the nearest private image above each."
    )
    return html.Section("Every reconstruction", text, figures=pictures, wide=True)


def _over_rounds(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> html.Section:
    pooled = evaluation.summary["pooled"]
    rows = metrics_rows(directory)
    drawings = {
        "judge_share": figures.curves(
            _snapshot_series(evaluation, "judge_share"),
            "share judged to be the target",
            ylimits=(0, 1),
        ),
        "similarity": figures.curves(
            _snapshot_series(evaluation, "ssim"),
            "SSIM to the nearest private image",
            levels={
                "reference": pooled["reference"]["ssim"],
                "floor": pooled["floor"]["value"],
            },
        ),
        "recovered": figures.curves(
            _recovered_series(evaluation),
            "recovered",
            levels={"floor": 0.0, "reference": 1.0},
        ),
        "task_accuracy": figures.curves(
            series_of(rows, _ARMS, "task_accuracy"), "task accuracy", ylimits=(0, 1)
        ),
    }
    losses = series_of(rows, _ARMS, "attack_loss")
    if losses:  # None, where no attack has reached its start accuracy.
        drawings["attack_loss"] = figures.curves(losses, "generator's loss (nats)")
    drawings |= _strips(experiment, evaluation, directory)
    pictures = []
    for name, drawn in drawings.items():
        picture = figures.save(drawn, directory.figures / f"{name}.png")
        pictures.append((name.replace("_", " "), picture))
    text = (
        "In a round every participant has one turn. Judge share, similarity and "
        "recovered are measured on snapshots of the generators, recovered against the "
        "floor of that round (the control moves too); its mean of the last half of "
        "the rounds is against the final floor, and steadier than the last round. Task "
        "accuracy is the shared model's on held-out images at the end of a round; "
        "right after an adversary's turn it may take real pictures of its target for "
        "fakes."
    )
    return html.Section("Over the rounds", text, figures=pictures)


def _strips(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> dict[str, Any]:
    """For each target, samples of each arm but the control at up to ten rounds."""
    taken = snapshots.load_snapshots(directory)
    rounds = list(taken)
    chosen = [
        rounds[i] for i in np.unique(np.linspace(0, len(rounds) - 1, 10, dtype=int))
    ]
    return {
        _strip_name(arm, target): figures.progress_strip(
            chosen,
            np.stack([taken[r][f"{arm.value}_{target}"][:3] for r in chosen]),
            window=evaluation.window,
        )
        for target in dict.fromkeys(experiment.data.federation.targets)
        for arm in evaluation.drawn
        if arm is not Arm.CONTROL
    }


def _strip_name(arm: Arm, target: int) -> str:
    prefix = "progress" if arm is Arm.ATTACK else f"progress_{arm.value}"
    return f"{prefix}_{target}"


def _facts(evaluation: Evaluation) -> list[tuple[str, object]]:
    pooled, summary = evaluation.summary["pooled"], evaluation.summary
    control = pooled["control"]
    facts = [
        ("recovered", pooled["recovered"]),
        *_late_facts(pooled["late_recovered"]),
        ("recovered against the closest other class", pooled["recovered_closest"]),
        ("targets reached", f"{pooled['reached_count']} of {len(pooled['targets'])}"),
        ("judge share", pooled["attack"]["judge_share"]),
        ("judge share, control", control["judge_share"] if control else None),
        ("class mean's SSIM", pooled["class_mean_similarity"]),
        ("task accuracy", summary["task_accuracy"][Arm.ATTACK.value]),
        *(
            (f"task accuracy after turn {number} of the last round", curve[-1])
            for number, curve in enumerate(
                summary["task_accuracy_by_turn"].get(Arm.ATTACK.value, []), start=1
            )
        ),
        ("judge's accuracy", summary["judge_accuracy"]),
        ("rounds", summary["rounds"]),
        (
            "generator's steps a turn",
            summary["generator_steps"].get(Arm.ATTACK.value),
        ),
        ("seed", summary["seed"]),
    ]
    if summary["identity"]:
        people = summary["identity"]["pooled"]
        facts += [
            ("nearest picture is the target's", people["attack"]),
            ("nearest picture is one other person's, at most", people["closest_other"]),
            ("nearest picture is the target's, control", people["control"]),
            ("nearest picture is the target's, real pictures", people["reference"]),
        ]
    if summary["epsilon"] is not None:
        facts.append(("epsilon, most exposed participant", summary["epsilon"]))
        facts.append(("epsilon of one turn", summary["epsilon_turn"]))
    if summary["delta"] is not None:
        facts.append(("delta", f"{summary['delta']:g}"))
    if summary["rounds"] < summary["rounds_planned"]:
        facts.append(("rounds without the privacy budget", summary["rounds_planned"]))
    return facts


def _late_facts(late: Mapping[str, float | None]) -> list[tuple[str, object]]:
    texts = {Arm.ATTACK: "", Arm.CONTROL: ", control", Arm.PASSIVE: ", passive"}
    return [
        (f"recovered, mean of the last half of the rounds{text}", late[arm.value])
        for arm, text in texts.items()
        if arm.value in late
    ]


def _snapshot_series(
    evaluation: Evaluation, key: str
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    return {
        arm.value: (curve["round"], curve[key])
        for arm, curve in evaluation.curves.items()
    }


def _recovered_series(
    evaluation: Evaluation,
) -> dict[str, tuple[Sequence[float], Sequence[float | None]]]:
    series = _snapshot_series(evaluation, "recovered")
    return {name: curve for name, curve in series.items() if name != Arm.CONTROL.value}
