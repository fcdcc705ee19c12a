"""What papers claim, beside what came out here: the table at the head of the results.

A claim, its verdict and a remark are words, written by whoever looked at the pictures;
the figures beside them are made of the summaries of finished runs. A verdict without a
finished run is refused; a finished run without a verdict is shown as not judged.
"""

import dataclasses
import enum
import functools
import operator
import pathlib
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from tff_leak.errors import InputError
from tff_leak.report.key_tables import (
    above_control,
    has_common_scale,
    on_common_scale,
    shared_class_scores,
)
from tff_leak.report.prose import linked_prose
from tff_leak.report.results_tables import reached_text
from tff_leak.report.tables import (
    interval_text,
    mean_of,
    over_seeds,
    preset_link,
    recovered_by_seed,
    shared_targets,
    table,
)

_HEADER = ("figure", "in the paper", "here", "measured", "remark")
_DIFFERENCE = "attack less control"


class Verdict(enum.Enum):
    """Of a claim."""

    YES = "as there"
    IN_PART = "in part"
    NO = "not so"


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper says of a figure, and what came out.

    Attributes:
      figure: or table, or section, and the setting.
      paper_says: in a few words.
      presets: whose runs speak of it, names under `docs/results` without a target.
      verdict: of a reader of figures and pictures; None before there are any.
      remark: what stands between the verdict and the paper; may be empty.
      attacks: of leak matrices, those that speak of it, by the names of their cells;
        empty: all.
    """

    figure: str
    paper_says: str
    presets: tuple[str, ...]
    verdict: Verdict | None = None
    remark: str = ""
    attacks: tuple[str, ...] = ()


def read_claims(path: pathlib.Path) -> dict[str, tuple[Claim, ...]]:
    """Returns claims by the title of their paper, in the order of the file.

    Raises:
      InputError: if the file is not what is described in its own comment.
    """
    try:
        papers = tomllib.loads(path.read_text(encoding="utf-8"))["paper"]
        claims = {
            paper["title"]: tuple(_claim(**claim) for claim in paper["claim"])
            for paper in papers
        }
        if len(claims) < len(papers):
            raise ValueError("two papers have one title")
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {type(error).__name__} {error}; expected papers with a title and "
            "claims, as its first lines describe them; correct it"
        ) from None
    return claims


def _claim(
    presets: Sequence[str],
    verdict: str = "",
    attacks: Sequence[str] = (),
    **words: str,
) -> Claim:
    for name, names in (("presets", presets), ("attacks", attacks)):
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise TypeError(f"{name} is {names!r}, not a list of names")
    found = Verdict(verdict) if verdict else None
    return Claim(presets=tuple(presets), verdict=found, attacks=tuple(attacks), **words)


def claims_tables(
    claims: Mapping[str, Sequence[Claim]],
    runs: Mapping[str, Sequence[Mapping]],
    presets: Collection[str] = (),
) -> str:
    """Returns a table a paper in Markdown, for `results.md`.

    Args:
      claims: by paper.
      runs: summaries of finished runs by preset, without the target in its name.
      presets: all that there are; those that a remark names are linked.

    Raises:
      InputError: if a claim has a verdict and none of its presets a finished run.
    """
    parts = []
    for title, of_paper in claims.items():
        rows = [_row(claim, runs, presets) for claim in of_paper]
        parts.append(f"### {title}\n\n{table(_HEADER, rows)}")
    return "\n".join(parts)


def _row(
    claim: Claim, runs: Mapping[str, Sequence[Mapping]], presets: Collection[str]
) -> list[str]:
    known = [preset for preset in claim.presets if preset in runs]
    if claim.verdict and not known:
        raise InputError(
            f"the claim of {claim.figure!r} is judged {claim.verdict.value!r} and none "
            f"of {', '.join(claim.presets)} is published: expected a verdict where "
            "there is a finished run; publish one, or take the verdict out"
        )
    verdict = claim.verdict.value if claim.verdict else "not judged"
    measured = [
        f"{preset_link(name)}: {in_brief(_spoken_of(runs[name], claim.attacks))}"
        for name in known
    ]
    return [
        claim.figure,
        claim.paper_says,
        verdict if known else "not run",
        "<br>".join(measured),
        linked_prose(claim.remark, runs, presets),
    ]


def _spoken_of(
    summaries: Sequence[Mapping], attacks: Sequence[str]
) -> Sequence[Mapping]:
    """Leaves the cells of other attacks out."""
    if not attacks:
        return summaries
    known = {cell["attack"] for one in summaries for cell in one.get("cells", ())}
    if known and not known & set(attacks):
        raise InputError(
            f"a claim is of the attacks {', '.join(attacks)}: expected some of the "
            f"matrix's, {', '.join(sorted(known))}; correct it"
        )
    return [
        {**one, "cells": [cell for cell in one["cells"] if cell["attack"] in attacks]}
        if "cells" in one
        else one
        for one in summaries
    ]


def in_brief(summaries: Sequence[Mapping]) -> str:
    """Returns the figures of one preset's finished runs that decide about a claim.

    Raises:
      InputError: if runs of this kind speak of no claim.
    """
    experiment = summaries[0]["experiment"]
    if experiment not in _BRIEF:
        raise InputError(
            f"a claim names runs of {experiment!r}: expected one of "
            f"{', '.join(_BRIEF)}; name other presets"
        )
    return _BRIEF[experiment](summaries)


def _pictures(summaries: Sequence[Mapping]) -> str:
    """Of attacks that draw a class: recovered, reached, the right person."""
    pooled = [summary["pooled"] for summary in summaries]
    recovered = over_seeds(recovered_by_seed(summaries))
    parts = [f"recovered {recovered}{_left_out(pooled, shared_targets(summaries))}"]
    late = [one.get("late_recovered", {}).get("attack") for one in pooled]
    if None not in late:
        found = _by_seed(summaries, late)
        parts.append(f"in the last half of the rounds {over_seeds(found)}")
    passive = _passive(summaries)
    if passive:
        parts.append(f"without influence {over_seeds(passive)}")
    reached = reached_text(summaries)
    if reached is not None:
        parts.append(f"reached {reached}")
    parts.append(f"judge's share {_beside_control(pooled, 'judge_share')}")
    people = [s["identity"]["pooled"] for s in summaries if s.get("identity")]
    if len(people) == len(summaries):
        found = over_seeds(_by_seed(summaries, [one["attack"] for one in people]))
        controls = [one["control"] for one in people if one["control"] is not None]
        beside = f" (control {mean_of(controls):.2f})" if controls else ""
        parts.append(f"right person nearest {found}{beside}")
    epsilons = {summary.get("epsilon") for summary in summaries} - {None}
    if epsilons:
        found = " to ".join(f"{one:.3g}" for one in _ends(epsilons))
        parts.append(f"epsilon, total, {found}")
    return ", ".join([*parts, _task_accuracy(summaries)])


def _left_out(pooled: Sequence[Mapping], shared: Sequence[tuple]) -> str:
    """Says of which targets a mean over seeds is, if some have fewer seeds."""
    if all(tuple(one["targets"]) in shared for one in pooled):
        return ""
    names = ", ".join(str(target) for key in shared for target in key) or "none"
    defined = [one["recovered"] for one in pooled if one["recovered"] is not None]
    of_all = f"{mean_of(defined):.2f}" if defined else "not defined"
    runs = f"all {len(pooled)} runs"
    if len(defined) < len(pooled):
        runs = f"the {len(defined)} runs of {len(pooled)} that define it"
    return f" of targets {names}, and {of_all} in the mean of {runs}"


def _beside_control(pooled: Sequence[Mapping], figure: str) -> str:
    """A figure's mean over runs, and that of the controls that were run."""
    controls = [one["control"][figure] for one in pooled if one.get("control")]
    of_control = f"{mean_of(controls):.2f}" if controls else "not run"
    attack = mean_of([one["attack"][figure] for one in pooled])
    return f"{attack:.2f} (control {of_control})"


def _task_accuracy(summaries: Sequence[Mapping]) -> str:
    """The mean over runs, and where all have it that without influence."""
    curves = [summary["task_accuracy"] for summary in summaries]
    text = f"task accuracy {mean_of([one['attack'] for one in curves]):.2f}"
    if all("passive" in one for one in curves):
        passive = mean_of([one["passive"] for one in curves])
        text += f" (without influence {passive:.2f})"
    return text


def _by_seed(
    summaries: Sequence[Mapping], values: Sequence[float | None]
) -> list[float | None]:
    """Means by seed of one value a summary, as those of `recovered`."""
    runs = [
        {
            "seed": summary["seed"],
            "pooled": {"targets": summary["pooled"]["targets"], "recovered": value},
        }
        for summary, value in zip(summaries, values, strict=True)
    ]
    return recovered_by_seed(runs)


def _ends(values: Iterable[float | str]) -> list[float]:
    """The least and the largest, or the only one."""
    ordered = sorted({float(value) for value in values})
    return list(dict.fromkeys((ordered[0], ordered[-1])))


def _passive(summaries: Sequence[Mapping]) -> list[float | None]:
    """By seed `recovered` of the same without influence, if every run has it."""
    values = []
    for summary in summaries:
        controls = [one["extra_controls"] for one in summary["targets"]]
        if not all("passive" in one for one in controls):
            return []
        found = [one["passive"]["recovered"] for one in controls]
        values.append(mean_of(found))
    return _by_seed(summaries, values)


def _inversion(summaries: Sequence[Mapping]) -> str:
    """Of model inversion: as of the others, and the score of Wang et al., table III."""
    scores = [s["pooled"]["attack"]["inception_score"] for s in summaries]
    real = [s["pooled"]["reference"]["inception_score"] for s in summaries]
    return f"{_pictures(summaries)}{_inception(scores, real)}"


def _inception(scores: Sequence[float | None], real: Sequence[float | None]) -> str:
    if None in [*scores, *real]:
        return ""
    return f", Inception Score {over_seeds(scores)} (real {mean_of(real):.2f})"


def _server_gan(summaries: Sequence[Mapping]) -> str:
    """Of a malicious server: recovered, and classes in which it told clients apart."""
    pooled = [summary["pooled"] for summary in summaries]
    told = [one["succeeded"] for summary in summaries for one in summary["targets"]]
    score = over_seeds([one["recovered"] for one in pooled])
    found = f"recovered {score}, leans as it should in {sum(told)} of {len(told)}"
    quality = [s["quality"]["attack"] for s in summaries if "quality" in s]
    if quality:
        scores = [one["inception_score"] for one in quality]
        real = [one["real_inception_score"] for one in quality]
        found += _inception(scores, real)
    curves = [summary.get("task_accuracy_by_round", {}) for summary in summaries]
    if all("honest" in curve for curve in curves):
        attack = mean_of([curve["attack"][-1] for curve in curves])
        honest = mean_of([curve["honest"][-1] for curve in curves])
        found += f", task accuracy {attack:.2f} (without an attack {honest:.2f})"
    return found


def _key_protected(summaries: Sequence[Mapping]) -> str:
    """Of the study that was made: accuracy, keys alone, or attacks."""
    study = summaries[0]["study"]
    if study == "attack":
        return _key_attacks(summaries)
    rows, figures = _KEY_STUDIES[study]
    parts = []
    for text, figure in figures.items():
        found: dict[str, list[float]] = {}
        for summary in summaries:
            for row in summary[rows]:
                value = figure(row)
                if value is not None:
                    words = [row.get("distribution"), f"d = {row['dimension']}"]
                    setting = ", ".join(word for word in words if word)
                    found.setdefault(setting, []).append(value)
        # Of many, what a reader looks for stands at the ends; the rest is in the table.
        shown = [*found] if len(found) <= _SHOWN else [*found][:2] + [*found][-2:]
        lines = [f"{name}: {over_seeds(found[name], 3)}" for name in shown]
        if lines:
            parts.append(f"{text} {'; '.join(lines)}")
    return "<br>".join(parts)


def _by_moments(kind: str, row: Mapping) -> float | None:
    """An accuracy on all tests, where it depends on whose moments normalise them."""
    own = row.get("participant_accuracy_own_moments")
    if own in (None, row.get("participant_accuracy_all_tests")):
        return None
    return row[f"participant_accuracy_{kind}"]


def _shared_score(row: Mapping) -> float | None:
    """The mean score of classes that participants share, each with its own key."""
    shared = shared_class_scores(row.get("class_scores", []))
    return mean_of(shared) if shared else None


def _key_attacks(summaries: Sequence[Mapping]) -> str:
    """`recovered` by guess and key size; without a target of the class shown best.

    What is best of several is high by choice, for the control as well, which so stands
    beside it, on the common scale (`score.common_floor`), and attacks with a target
    beside them have that figure, too.
    """
    runs: dict[str, dict[str, list[Mapping]]] = {}
    for summary in summaries:
        for attack in summary["attacks"]:
            of_attack = runs.setdefault(_key_attack_name(attack), {})
            common_scale = has_common_scale(summary["attacks"])
            for part, figures in _key_attack_parts(attack, common_scale).items():
                run = {"seed": summary["seed"], "pooled": figures}
                of_attack.setdefault(part, []).append(run)
    lines = [_key_attack_line(name, parts) for name, parts in runs.items()]
    return f"recovered<br>{'<br>'.join(lines)}"


def _key_attack_name(attack: Mapping) -> str:
    near = "" if attack["distance"] is None else "distance "
    name = f"{near}{attack['guess']}, d = {attack['dimension']}"
    return name if attack["largest"] is None else f"{name}, class shown best"


def _key_attack_parts(attack: Mapping, common_scale: bool) -> dict[str, Mapping]:
    """What is told of one attack, each with `targets` and `recovered`, by its words."""
    pooled, largest = attack["pooled"], attack["largest"]
    if largest is None:
        parts = {"": pooled}
        if common_scale:
            found = on_common_scale(pooled, pooled["attack"]["ssim"])
            parts["common scale"] = {"targets": pooled["targets"], "recovered": found}
        return parts
    parts = {"": {"targets": (), **largest["attack"]}}
    if largest["control"] is not None:
        parts["control"] = {"targets": (), **largest["control"]}
        difference = above_control(largest)
        parts[_DIFFERENCE] = {"targets": (), "recovered": difference}
    return parts


def _key_attack_line(name: str, parts: Mapping[str, Sequence[Mapping]]) -> str:
    """The figures of an attack's parts over seeds."""
    found = parts[""]
    text = f"{name}: {over_seeds(recovered_by_seed(found))}"
    text += _left_out([run["pooled"] for run in found], shared_targets(found))
    if all("reached_count" in run["pooled"] for run in found):
        reached = sum(run["pooled"]["reached_count"] for run in found)
        aimed = sum(len(run["pooled"]["targets"]) for run in found)
        text += f", reached {reached} of {aimed}"
    for part, of_part in parts.items():
        values = recovered_by_seed(of_part)
        # One difference is there to be seen.
        told = len(values) > 1 if part == _DIFFERENCE else bool(part)
        if told:
            text += f", {part} {over_seeds(values)}"
    return text


def _leak_matrix(summaries: Sequence[Mapping]) -> str:
    """Of each cell that was measured: what leaks, and what the defence costs."""
    cells = [cell for one in summaries for cell in one["cells"]]
    several = len({cell["attack"] for cell in cells}) > 1
    lines = []
    for cell in cells:
        if cell["status"] != "measured":
            continue
        parts = [f"{cell['measure']} {interval_text(**cell['leakage'])}"]
        late = cell.get("late_leakage")
        if late and late["mean"] is not None:
            parts.append(f"in the last half of the rounds {interval_text(**late)}")
        if cell["control"]["mean"] is not None:
            parts.append(f"control {cell['control']['mean']:.2f}")
        if cell["epsilon"] is not None:
            parts.append(f"epsilon {float(cell['epsilon']):.3g}")
        parts.append(f"task accuracy {cell['task_accuracy']['mean']:.2f}")
        of_attack = f"{cell['attack']}, " if several else ""
        lines.append(f"{of_attack}{cell['defence_title']}: {', '.join(parts)}")
    return "<br>".join(lines)


_SHOWN = 6
# Where a study's rows are, and which of their figures are shown, by their names.
_KEY_STUDIES: Mapping[str, tuple[str, Mapping[str, Callable]]] = {
    "accuracy": (
        "accuracy",
        {
            "accuracy": operator.itemgetter("participant_accuracy"),
            "of all tests": functools.partial(_by_moments, "all_tests"),
            "of all tests, by own moments": functools.partial(
                _by_moments, "own_moments"
            ),
            "mean score of shared classes": _shared_score,
        },
    ),
    "orthogonality": ("keys", {"largest product": operator.itemgetter("largest")}),
    "shared_classes": (
        "keys",
        {
            "largest score": operator.itemgetter("score_largest"),
            "largest product with another": operator.itemgetter("other_largest"),
        },
    ),
}
_BRIEF: Mapping[str, Callable[[Sequence[Mapping]], str]] = {
    "client_gan": _pictures,
    "key_protected": _key_protected,
    "leak_matrix": _leak_matrix,
    "model_inversion": _inversion,
    "server_gan": _server_gan,
}
