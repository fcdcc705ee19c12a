"""The report of a model inversion run: pictures first, then figures."""

from collections.abc import Mapping

import numpy as np

from experiments.model_inversion_program import (
    ATTACK,
    CONTROL,
    UNTRAINED,
    Evaluation,
    Experiment,
    NetworkKind,
)
from experiments.report_parts import figures_section, metrics_rows, nouns_of
from tff_leak.metrics.similarity import nearest
from tff_leak.report import figures, html
from tff_leak.runtime.run_directory import RunDirectory

_COLUMNS = 20

_TEXTS = {
    ATTACK: (
        "Reconstructed",
        "Each lower picture is where gradient descent on the finished network's "
        "confidence in the class ended; above it stands the training image of the "
        "class that is nearest to it in L1.",
    ),
    CONTROL: (
        "Control: a network that never saw the target",
        "The same descent on a network of the same settings and seed that was trained "
        "without half of the classes, the target among them. Whatever resembles the "
        "target here does not come from its images.",
    ),
    UNTRAINED: (
        "Untrained network",
        "The same descent on the initial parameters: what the network's form and the "
        "descent draw without any data.",
    ),
}


def write_report(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> str:
    """Writes figures and `report.html`; returns the verdict's first sentence."""
    source, pooled = experiment.data.source, evaluation.summary["pooled"]
    nouns = nouns_of(source)
    text, kind = html.verdict(pooled, nouns=nouns)
    sections = [
        _pictures(experiment, evaluation, name, directory) for name in evaluation.found
    ]
    if experiment.settings.descents > 1:
        sections.append(_every_picture(experiment, evaluation, directory))
    sections.append(_over_epochs(directory))
    sections.append(_descents_section(evaluation))
    sections.append(figures_section(evaluation.summary, nouns[0]))
    synthetic = " (synthetic pictures)" if source.synthetic else ""
    network = {
        NetworkKind.CNN: "a CNN",
        NetworkKind.MLP: "an MLP",
        NetworkKind.WANG: "the shared model of Wang et al.",
    }
    kind_of_network = network[experiment.settings.network]
    report = html.Report(
        title=f"Model inversion of {kind_of_network} on {source.name}{synthetic}",
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
    experiment: Experiment, evaluation: Evaluation, name: str, directory: RunDirectory
) -> html.Section:
    """One picture a class: the first descent to each, not selected."""
    title, text = _TEXTS[name]
    targets = list(evaluation.found[name])
    pictures = []
    for start in range(0, len(targets), _COLUMNS):
        shown = targets[start : start + _COLUMNS]
        kept = [evaluation.found[name][target].images[:1] for target in shown]
        private = [
            _nearest_private(experiment, evaluation, target, images)
            for target, images in zip(shown, kept, strict=True)
        ]
        drawn = figures.reconstruction_grid(
            np.concatenate(kept),
            np.concatenate(private),
            columns=_COLUMNS,
            row_names=("nearest private", "inversion"),
            column_names=[experiment.data.source.class_names[t] for t in shown],
            window=evaluation.window,
        )
        number = f"_{start}" if start else ""
        picture = figures.save(drawn, directory.figures / f"{name}_all{number}.png")
        caption = f"{title}: nearest private image above each picture"
        pictures.append((caption, picture))
    return html.Section(title, text, figures=pictures, wide=True)


def _every_picture(
    experiment: Experiment, evaluation: Evaluation, directory: RunDirectory
) -> html.Section:
    """All pictures of the attack, so that none is hidden."""
    pictures = []
    for target, found in evaluation.found[ATTACK].items():
        private = _nearest_private(experiment, evaluation, target, found.images)
        for start in range(0, len(private), _COLUMNS):
            rows = slice(start, start + _COLUMNS)
            drawn = figures.reconstruction_grid(
                found.images[rows],
                private[rows],
                columns=_COLUMNS,
                row_names=("nearest private", "inversion"),
                window=evaluation.window,
            )
            path = directory.figures / f"{ATTACK}_{target}.png"
            picture = figures.png(drawn) if start else figures.save(drawn, path)
            caption = (
                f"Target {experiment.data.source.class_names[target]}, descents "
                f"{start + 1} to {start + len(private[rows])}"
            )
            pictures.append((caption, picture))
    text = "The descents to one class differ in the noise that they start from."
    return html.Section("Every inversion", text, figures=pictures, wide=True)


def _nearest_private(
    experiment: Experiment, evaluation: Evaluation, target: int, images: np.ndarray
) -> np.ndarray:
    """For each picture the training image of the class that is nearest to it in L1."""
    private = experiment.data.train.of_class(target).images
    return private[nearest(images, private, window=evaluation.window)[1]]


def _over_epochs(directory: RunDirectory) -> html.Section:
    rows = metrics_rows(directory)
    rounds = [int(row["round"]) for row in rows]
    series = {
        key.split("/")[1]: (rounds, [float(row[key]) for row in rows])
        for key in rows[0]
        if key.endswith("/task_accuracy")
    }
    drawn = figures.curves(series, "test accuracy", xlabel="epoch", ylimits=(0, 1))
    picture = figures.save(drawn, directory.figures / "task_accuracy.png")
    text = (
        "Accuracy on held-out images of the classes that a network is trained on. "
        "Training stops for all once the attacked network has reached the accuracy "
        "asked for; after that they stay as they are."
    )
    pictures = [("test accuracy", picture)]
    return html.Section("Over the epochs", text, figures=pictures)


def _descents_section(evaluation: Evaluation) -> html.Section:
    header = ["set", "target", "steps", "confidence"]
    rows: list[list[object]] = []
    for name, descents in evaluation.summary["descents"].items():
        rows.append([name, "all", descents["steps"], descents["confidence"]])
        rows += [
            [name, one["target"], one["steps"], one["confidence"]]
            for one in descents["targets"]
        ]
    text = (
        "How sure the inverted network is of the class, which says nothing about what "
        "a picture shows: compare the judge's share."
    )
    return html.Section("Descents", text, tables=[("Means", header, rows)])


def _facts(evaluation: Evaluation) -> list[tuple[str, object]]:
    summary: Mapping = evaluation.summary
    pooled, control = summary["pooled"], summary["pooled"]["control"]
    return [
        ("recovered", pooled["recovered"]),
        ("recovered against the closest other class", pooled["recovered_closest"]),
        ("targets reached", f"{pooled['reached_count']} of {len(pooled['targets'])}"),
        ("judge share", pooled["attack"]["judge_share"]),
        ("judge share, control", control["judge_share"] if control else None),
        (
            "judge share, untrained",
            pooled["extra_controls"][UNTRAINED]["judge_share"],
        ),
        ("the network's own confidence", summary["descents"][ATTACK]["confidence"]),
        ("class mean's SSIM", pooled["class_mean_similarity"]),
        ("task accuracy", summary["task_accuracy"][ATTACK]),
        ("judge's accuracy", summary["judge_accuracy"]),
        ("epochs", summary["epochs"]),
        ("seed", summary["seed"]),
    ]
