"""One HTML file that says what a run found: a verdict, pictures, figures, settings.

The file needs nothing beside it: pictures are inside, there is no script, and it
opens from disk, on paper and on a phone.
"""

import base64
import dataclasses
import importlib.resources
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import jinja2

from tff_leak import errors
from tff_leak.metrics import score
from tff_leak.runtime.atomic import atomic_write_text

LEAK_FROM = 0.5
"""From this `recovered` on, with every target reached, the verdict is a leak."""

PARTIAL_FROM = 0.1
"""Below this `recovered` the verdict is that nothing was recovered."""

CONTROL_SHARE = 0.1
"""From this share of the control's samples on, the judge's word says little."""

_HEADLINES = {
    "leak": "Leak",
    "partial": "Partial leak",
    "none": "No leak found",
    "undefined": "Not decided",
}


@dataclasses.dataclass(frozen=True)
class Linked:
    """A cell of a table that leads to other files.

    Attributes:
      text: what it says.
      links: (text, address relative to the report) pairs, after it.
    """

    text: str
    links: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
      title: Its heading.
      text: Plain text; an empty line starts a new paragraph.
      figures: (caption, PNG) pairs, shown side by side where there is room. The
        caption also stands in for the picture where it cannot be seen.
      wide: Gives each figure a row of its own.
      tables: (caption, header, rows); cells are text, numbers, booleans, None or
        `Linked`.
    """

    title: str
    text: str = ""
    figures: Sequence[tuple[str, bytes]] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[object]]]] = ()
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report shows. All text is plain and escaped.

    Attributes:
      title: Its heading.
      verdict: The finding in plain language, e.g. from `verdict`.
      verdict_good: 'leak', 'partial', 'none' or 'undefined': colour and headline.
      facts: (name, value) pairs of the few figures that matter most.
      sections: In the order in which they are shown.
      configuration: Every setting of the run; shown folded.
      scores: Similarities by name for the bar chart, e.g. from `scores`; the bars are
        drawn from 0 to 1. Empty draws none.
      headline: Over the verdict; empty for the word that goes with `verdict_good`.
    """

    title: str
    verdict: str
    verdict_good: str
    facts: Sequence[tuple[str, object]]
    sections: Sequence[Section]
    configuration: Mapping[str, object]
    scores: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    headline: str = ""


def render(report: Report) -> str:
    """The report as one HTML document.

    Raises:
      InputError: If `verdict_good` is none of the four words.
    """
    if report.verdict_good not in _HEADLINES:
        raise errors.InputError(
            f"verdict_good is {report.verdict_good!r}; expected one of "
            f"{', '.join(_HEADLINES)}; take both parts from `verdict`."
        )
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["table"] = _table
    environment.filters["cell_class"] = _cell_class
    environment.filters["paragraphs"] = _paragraphs
    environment.filters["setting"] = _setting
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    source = importlib.resources.files(__package__).joinpath("report.html.j2")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        headline=report.headline or _HEADLINES[report.verdict_good],
        bars=_bars(report.scores),
        smallest_range=score.SMALLEST_RANGE,
        reached_share=score.REACHED_SHARE,
        reached_diversity=score.REACHED_DIVERSITY,
    )


def write(report: Report, path: str | os.PathLike) -> None:
    """Writes the report as one HTML file: beside `path` first, then renamed."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, render(report))


def scores(summary: Mapping) -> dict[str, float | None]:
    """Similarities of `evaluate_targets`' pooled dictionary, for the bar chart."""
    control = summary["control"]
    return {
        "reference": summary["reference"]["ssim"],
        "class mean": summary["class_mean_similarity"],
        "attack": summary["attack"]["ssim"],
        "floor": summary["floor"]["value"],
        "control": control["ssim"] if control else None,
    }


def verdict(
    summary: Mapping,
    *,
    nouns: tuple[str, str] = ("class", "classes"),
    steps: float | None = None,
) -> tuple[str, str]:
    """Says in plain language what the figures show, and what they do not.

    Args:
      summary: The pooled dictionary of `evaluate_targets`.
      nouns: What a target is, singular and plural, e.g. ("digit", "digits").
      steps: of the attack's generator, mean over the rounds; None where it has none.

    Returns:
      (text, kind). The kind is 'undefined' where `recovered` is not defined, or the
      generator made no step, so that there was no attack; 'leak'
      when every target was reached, `recovered` is at least `LEAK_FROM` and a control
      was run of which the judge does not say the same; 'none' when `recovered` is
      below `PARTIAL_FROM` and no target above the floor was reached; otherwise
      'partial'.
    """
    kind = "undefined" if steps == 0 else _kind(summary)
    targets = [str(target) for target in summary["targets"]]
    listed = " and ".join(
        part for part in (", ".join(targets[:-1]), targets[-1]) if part
    )
    what = f"the victim's {nouns[len(targets) > 1]} {listed}"
    opening = {
        "leak": f"The adversary reconstructed recognisable images of {what}.",
        "partial": f"The adversary reconstructed {what} in part.",
        "none": f"The adversary did not reconstruct {what}.",
        "undefined": f"These figures cannot tell whether {what} leaked.",
    }[kind]
    if steps == 0:
        opening = (
            f"The attack never began, so that nothing is known of {what}: the "
            "generator made no step, for instance as the model did not reach "
            "start_accuracy."
        )
    paragraphs = [
        opening,
        _similarity_sentence(summary),
        f"{_judge_sentence(summary, nouns)} {_control_sentence(summary, nouns[0])}",
        _caveat(summary, kind),
    ]
    return "\n\n".join(part for part in paragraphs if part), kind


def _kind(summary: Mapping) -> str:
    recovered, control = summary["recovered"], summary["control"]
    if recovered is None:
        return "undefined"
    sure = control is not None and control["judge_share"] < CONTROL_SHARE
    if recovered >= LEAK_FROM and summary["reached_all"] and sure:
        return "leak"
    if recovered >= PARTIAL_FROM or (recovered > 0 and summary["reached_count"]):
        return "partial"
    return "none"


def _similarity_sentence(summary: Mapping) -> str:
    attack, floor = summary["attack"]["ssim"], summary["floor"]
    reference = summary["reference"]["ssim"]
    source = {
        "control": "the control run",
        "blank": "a blank image",
        "other_class_means": "the means of other classes",
        "other_class_images": "real images of other classes",
        "grand_mean": "the mean image of all other classes",
    }[floor["source"]]
    figures_ = (
        f"The samples' similarity to the victim's images is {attack:.2f}. What needs "
        f"no leak reaches {floor['value']:.2f} ({source}); other real images of the "
        f"class reach {reference:.2f}"
    )
    if summary["recovered"] is None:
        return (
            f"{figures_}: too close together (under {score.SMALLEST_RANGE:.2f}) for "
            "similarity to separate a leak from none, so recovered is not defined."
        )
    return (
        f"{figures_}. Recovered {summary['recovered']:.2f} (0: nothing beyond what "
        "needs no leak; 1: as close as another real image of the class)"
        f"{_closest_clause(summary)}."
    )


def _closest_clause(summary: Mapping) -> str:
    """Says so where one other class comes as close as the samples, or as its own."""
    strict, floor = summary["recovered_closest"], summary["floor"]
    if summary["recovered"] <= 0 or (strict is not None and strict > 0):
        return ""
    come = {
        "closest_class_images": "real images of another class come",
        "closest_class_mean": "the mean of another class comes",
    }[floor["strict_source"]]
    if strict is None:
        return (
            f", but {come} as close ({floor['strict_value']:.2f}) as real images of "
            "the class itself, so recovered against the closest other class is not "
            "defined"
        )
    return (
        f", but {come} as close ({floor['strict_value']:.2f}): against the closest "
        f"other class recovered is {strict:.2f}"
    )


def _judge_sentence(summary: Mapping, nouns: tuple[str, str]) -> str:
    attack, count = summary["attack"], len(summary["targets"])
    text = (
        "The judge, an independent classifier, assigns "
        f"{attack['judge_share']:.0%} of the samples to the right {nouns[0]}"
    )
    if summary["reached_all"]:
        return f"{text}, and they vary at least half as much as real images do."
    if summary["reached_all"] is None:
        return f"{text}; how much they vary, or should, is not known from one image."
    if count > 1:
        return (
            f"{text}; {summary['reached_count']} of {count} {nouns[1]} are reached "
            f"(at least {score.REACHED_SHARE:.0%} assigned rightly, with at least "
            "half the variety of real images)."
        )
    if attack["judge_share"] < score.REACHED_SHARE:
        return (
            f"{text}, fewer than the {score.REACHED_SHARE:.0%} that count as reached."
        )
    return f"{text}, but they are nearly one picture repeated: too little variety."


def _control_sentence(summary: Mapping, noun: str) -> str:
    control = summary["control"]
    if control is None:
        return (
            "No control was run, so part of this may come from the attack's own "
            "habits and not from the victim."
        )
    text = (
        f"In the control, where nobody holds the {noun}, it assigns "
        f"{control['judge_share']:.0%} so, and similarity is {control['ssim']:.2f}"
    )
    if control["judge_share"] >= CONTROL_SHARE:
        return f"{text}: the judge's word therefore says little here."
    return f"{text}."


def _caveat(summary: Mapping, kind: str) -> str:
    """What the figures do not prove."""
    if kind == "undefined":
        return ""
    if kind == "none":
        return (
            "This holds for this attack, budget and seed; it does not prove that "
            "nothing can be recovered."
        )
    attack, mean = summary["attack"], summary["class_mean_similarity"]
    text = f"The mean of the victim's images alone would score {mean:.2f}"
    if attack["ssim"] <= mean:
        text += (
            ", and the attack does not exceed it: it leaked what the class looks like, "
            "not proof of individual records."
        )
    else:
        text += (
            ", less than the attack: the samples hold more than the average picture, "
            "which by itself is no proof of individual records."
        )
    others = attack["ssim_to_others"]
    if others is not None and others >= attack["ssim"]:
        text += (
            f" The samples are as close to other clients' images ({others:.2f}) as to "
            "the victim's."
        )
    return text


def _bars(values: Mapping[str, float | None]) -> list[dict]:
    """Rows of the chart: name, value and its place on a scale from 0 to 1, in %."""
    return [
        {
            "name": name,
            "value": value,
            "percent": f"{100 * min(max(value, 0), 1):.1f}",
        }
        for name, value in values.items()
        if value is not None
    ]


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _cell_class(text: str) -> str:
    """How a cell is set: a sentence, a figure, or one with an interval behind it."""
    if len(text) > 24 and re.match(r"-?\d+\.\d+ [\[(]", text):
        return "number long"
    return "number" if len(text) <= 40 else "words"


def _table(rows: Sequence[Sequence[object]]) -> list[list[Linked]]:
    """Cells as text, with links; a column's numbers have equally many digits."""
    columns = zip(*rows, strict=True)
    return [list(row) for row in zip(*map(_column, columns), strict=True)]


def _column(values: Sequence[object]) -> list[Linked]:
    finite = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v)]
    largest = max(finite, default=0.0)
    digits = 3 if largest < 10 else 2 if largest < 100 else 1
    return [
        value if isinstance(value, Linked) else Linked(_cell(value, digits))
        for value in values
    ]


def _cell(value: object, digits: int = 3) -> str:
    """Text of one value, with as many digits as a reader can use."""
    if value is None or value != value:  # NaN differs from itself.
        return "not defined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value:,.{digits}f}"


def _setting(value: object) -> str:
    """Text of a setting, with every digit."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
