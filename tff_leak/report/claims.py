"""What papers claim, beside what came out here: the table at the head of the results.

A claim, its verdict and a remark are words, written by whoever looked at the pictures;
the figures beside them are made of the summaries of finished runs. A verdict without a
finished run is refused; a finished run without a verdict is shown as not judged.
"""

import dataclasses
import enum
import pathlib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence

from tff_leak.errors import InputError
from tff_leak.report.results_tables import over_seeds, recovered_by_seed, table

_HEADER = ("figure", "in the paper", "here", "measured", "remark")


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
    """

    figure: str
    paper_says: str
    presets: tuple[str, ...]
    verdict: Verdict | None = None
    remark: str = ""


def read_claims(path: pathlib.Path) -> dict[str, tuple[Claim, ...]]:
    """Returns claims by the title of their paper, in the order of the file.

    Raises:
      InputError: if the file is not what is described in its own comment.
    """
    try:
        papers = tomllib.loads(path.read_text(encoding="utf-8"))["paper"]
        return {
            paper["title"]: tuple(_claim(**claim) for claim in paper["claim"])
            for paper in papers
        }
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {type(error).__name__} {error}; expected papers with a title and "
            "claims, as its first lines describe them; correct it"
        ) from None


def _claim(presets: Sequence[str], verdict: str = "", **words: str) -> Claim:
    found = Verdict(verdict) if verdict else None
    return Claim(presets=tuple(presets), verdict=found, **words)


def claims_tables(
    claims: Mapping[str, Sequence[Claim]],
    runs: Mapping[str, Sequence[Mapping]],
) -> str:
    """Returns a table a paper in Markdown.

    Args:
      claims: by paper.
      runs: summaries of finished runs by preset, without the target in its name.

    Raises:
      InputError: if a claim has a verdict and none of its presets a finished run.
    """
    parts = []
    for title, of_paper in claims.items():
        rows = [_row(claim, runs) for claim in of_paper]
        parts.append(f"### {title}\n\n{table(_HEADER, rows)}")
    return "\n".join(parts)


def _row(claim: Claim, runs: Mapping[str, Sequence[Mapping]]) -> list[str]:
    known = [preset for preset in claim.presets if preset in runs]
    if claim.verdict and not known:
        raise InputError(
            f"the claim of {claim.figure!r} is judged {claim.verdict.value!r} and none "
            f"of {', '.join(claim.presets)} is published: expected a verdict where "
            "there is a finished run; publish one, or take the verdict out"
        )
    verdict = claim.verdict.value if claim.verdict else "not judged"
    measured = [f"[{name}](#{name}): {in_brief(runs[name])}" for name in known]
    return [
        claim.figure,
        claim.paper_says,
        verdict if known else "not run",
        "<br>".join(measured),
        claim.remark,
    ]


def in_brief(summaries: Sequence[Mapping]) -> str:
    """Returns the figures of one preset's finished runs that decide about a claim."""
    return _BRIEF[summaries[0]["experiment"]](summaries)


def _pictures(summaries: Sequence[Mapping]) -> str:
    """Of attacks that draw a class: recovered, reached, the right person."""
    parts = [f"recovered {over_seeds(recovered_by_seed(summaries))}"]
    verdicts = [
        one["reached"]["value"] for summary in summaries for one in summary["targets"]
    ]
    passive = _passive(summaries)
    if passive:
        parts.append(f"without influence {over_seeds(passive)}")
    if None not in verdicts:
        parts.append(f"reached {sum(verdicts)} of {len(verdicts)}")
    people = [s["identity"]["pooled"]["attack"] for s in summaries if s.get("identity")]
    if people:
        parts.append(f"right person nearest {over_seeds(people)}")
    epsilons = {summary.get("epsilon") for summary in summaries} - {None}
    if epsilons:
        found = " to ".join(f"{one:.3g}" for one in _ends(epsilons))
        parts.append(f"epsilon {found} in all")
    accuracies = [summary["task_accuracy"]["attack"] for summary in summaries]
    parts.append(f"task accuracy {sum(accuracies) / len(accuracies):.2f}")
    return ", ".join(parts)


def _ends(values: Iterable[float | str]) -> list[float]:
    """The least and the largest, or the only one."""
    ordered = sorted({float(value) for value in values})
    return list(dict.fromkeys((ordered[0], ordered[-1])))


def _passive(summaries: Sequence[Mapping]) -> list[float | None]:
    """By seed `recovered` of the same without influence, if every run has it."""
    runs = [
        {
            "seed": summary["seed"],
            "pooled": {
                "targets": (one["target"],),
                "recovered": one["extra_controls"]["passive"]["recovered"],
            },
        }
        for summary in summaries
        for one in summary["targets"]
        if "passive" in one["extra_controls"]
    ]
    complete = len(runs) == sum(len(summary["targets"]) for summary in summaries)
    return recovered_by_seed(runs) if runs and complete else []


def _inversion(summaries: Sequence[Mapping]) -> str:
    """Of model inversion: as of the others, and the score of Wang et al., table III."""
    scores = [s["pooled"]["attack"]["inception_score"] for s in summaries]
    real = [s["pooled"]["reference"]["inception_score"] for s in summaries]
    return f"{_pictures(summaries)}{_inception(scores, real)}"


def _inception(scores: Sequence[float | None], real: Sequence[float | None]) -> str:
    if None in [*scores, *real]:
        return ""
    of_real = sum(real) / len(real)
    return f", Inception Score {over_seeds(scores)} (real {of_real:.2f})"


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
        ends = {arm: [curve[arm][-1] for curve in curves] for arm in _FIGURE_7}
        attack, honest = (sum(values) / len(values) for values in ends.values())
        found += f", task accuracy {attack:.2f} (without an attack {honest:.2f})"
    return found


def _key_protected(summaries: Sequence[Mapping]) -> str:
    """Of the study that was made: accuracy, keys alone, or attacks."""
    study = summaries[0]["study"]
    if study == "attack":
        return _key_attacks(summaries)
    rows, figure, text = _KEY_STUDIES[study]
    found: dict[str, list[float]] = {}
    for summary in summaries:
        for row in summary[rows]:
            words = [row.get("distribution"), f"d = {row['dimension']}"]
            setting = ", ".join(word for word in words if word)
            found.setdefault(setting, []).append(row[figure])
    # Of many, what a reader looks for stands at the ends; the rest is in the table.
    shown = list(found) if len(found) <= _SHOWN else [*found][:2] + [*found][-2:]
    return f"{text} {'; '.join(f'{name}: {over_seeds(found[name])}' for name in shown)}"


def _key_attacks(summaries: Sequence[Mapping]) -> str:
    """`recovered` by guess and key size; without a target of the class shown best."""
    runs: dict[str, list[Mapping]] = {}
    for summary in summaries:
        for attack in summary["attacks"]:
            pooled, largest = attack["pooled"], attack["largest"]
            if largest is not None:
                pooled = {"targets": (), "recovered": largest["attack"]["recovered"]}
            name = f"{attack['guess']}, d = {attack['dimension']}"
            run = {"seed": summary["seed"], "pooled": pooled}
            runs.setdefault(name, []).append(run)
    return "recovered " + "; ".join(
        f"{name}: {over_seeds(recovered_by_seed(found))}"
        for name, found in runs.items()
    )


_SHOWN = 6
# The shared model under the attack and without it.
_FIGURE_7 = ("attack", "honest")
# Where a study's rows are, which of their figures is shown, and its name.
_KEY_STUDIES = {
    "accuracy": ("accuracy", "participant_accuracy", "accuracy"),
    "orthogonality": ("keys", "largest", "largest product"),
    "shared_classes": ("keys", "score_mean", "mean score"),
}
_BRIEF: Mapping[str, Callable[[Sequence[Mapping]], str]] = {
    "client_gan": _pictures,
    "key_protected": _key_protected,
    "model_inversion": _inversion,
    "server_gan": _server_gan,
}
