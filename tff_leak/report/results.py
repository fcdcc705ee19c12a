"""`docs/results.md`, and a page a preset, from the summaries of finished runs.

A finished run leaves `docs/results/<preset>/<seed>/summary.json` and small pictures; of
a preset that leaves the target open, each target has its own
`docs/results/<preset>_target<class>/<seed>`. The tables are made of these files alone,
so that results from different days and machines add up, and no figure in them was
typed. Trials that chose a setting stand in the comments of presets. A preset's page is
the README.md of the folder of its name.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from tff_leak.errors import InputError
from tff_leak.report.claims import Claim, claims_tables
from tff_leak.report.preset_page import GENERATED, TABLES, preset_page
from tff_leak.report.prose import linked_prose
from tff_leak.report.results_tables import overview_row
from tff_leak.report.tables import anchor, page_path, preset_link, table

_CLAIMS_TITLE = "What the papers say, and what came out"
_OVERVIEW_TITLE = "The malicious client's GAN, and model inversion"
_INDEX_TITLE = "Presets with finished runs"

_HEAD = f"""# Results

{GENERATED} from the files under
`docs/results/`; do not edit. Below:
"""

_TERMS = """\
The terms are those of the README, [How to read the
figures](../README.md#how-to-read-the-figures). Intervals are 95% (Student t) over
seeds. A preset is a file of flags, and its page has what was measured with it: tables
with rows by run, and by target, attack or cell, and pictures. (What was run with other
flags than the command on it says so.) It repeats the comment of the file: what the
preset does, what differs from the paper, and the figures of trials that chose a
setting, one run each, not kept.

`recovered` above 1: reconstructions are nearer to the victim's pictures than real
held-out ones are. Of faces the reference is two real pictures: its spread is not known.
"""

_CLAIMS = f"""## {_CLAIMS_TITLE}

Verdicts (`docs/claims.toml`) are of whoever looked at the figures and pictures; the
figures are read from the runs. A preset with `_small` has 200 images a digit, not
6,000, or smaller networks, fewer rounds and higher rates; what else differs stands on
each preset's page. Our Inception Scores have our judge as the feature network and
compare with none of a paper.
"""

_OVERVIEW_HEAD = f"""## {_OVERVIEW_TITLE}

One row for each preset of `run_client_gan` and `run_model_inversion`; other attacks
have figures of their own, on the presets' pages.
"""
_OVERVIEW = (
    "attack, by preset",
    "runs",
    "seeds",
    "recovered, mean over seeds",
    "of targets",
    "targets reached",
    "judge share",
    "control's",
    "right person nearest",
    "task accuracy",
)
_OVERVIEW_OF = ("client_gan", "model_inversion")
_INDEX = ("preset", "what it is", "runs", "seeds")


def render(
    root: pathlib.Path,
    descriptions: Mapping[str, str],
    claims: Mapping[str, Sequence[Claim]] = MappingProxyType({}),
    commands: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Returns all pages as Markdown, by their paths in the folder of `root`.

    `results.md` has what papers claim, the overview and the list of presets;
    `results/<preset>/README.md` what was measured with one.

    Args:
      root: `docs/results`, with `<preset>/<seed>/summary.json` and, where there are
        some, `picture*.png` beside it.
      descriptions: by preset, what it is and how it differs from the paper.
      claims: by paper, what it says and what came out; see `claims`.
      commands: by preset, what its first run was made with.

    Raises:
      InputError: if a summary cannot be read or is of an unknown experiment, or a claim
        is judged without a run.
    """
    read = {
        name: {path: _read(path) for path in paths}
        for name, paths in families(root, descriptions).items()
    }
    summaries = {name: list(of_preset.values()) for name, of_preset in read.items()}
    pages = {"results.md": _main_page(summaries, descriptions, claims)}
    for name, runs in read.items():
        command = commands.get(name, "")
        pages[page_path(name)] = preset_page(
            name, runs, root, descriptions, claims, summaries, command
        )
    return pages


def is_generated(text: str) -> bool:
    """Returns whether a file is a page of `render`'s, which may be made anew."""
    _, _, rest = text.partition("\n\n")
    return rest.startswith(GENERATED)


def _main_page(
    runs: Mapping[str, Sequence[Mapping]],
    descriptions: Mapping[str, str],
    claims: Mapping[str, Sequence[Claim]],
) -> str:
    """Of the runs' summaries by preset."""
    parts, titles = [], []
    if claims:
        parts += [_CLAIMS, claims_tables(claims, runs, descriptions)]
        titles.append(_CLAIMS_TITLE)
    rows = [
        overview_row(preset_link(name), summaries)
        for name, summaries in runs.items()
        if summaries[0]["experiment"] in _OVERVIEW_OF
    ]
    if rows:
        parts += [_OVERVIEW_HEAD, table(_OVERVIEW, rows)]
        titles.append(_OVERVIEW_TITLE)
    parts.append(f"## {_INDEX_TITLE}\n")
    titles.append(_INDEX_TITLE)
    for experiment in TABLES:
        listed = [
            _index_row(name, summaries, runs, descriptions)
            for name, summaries in runs.items()
            if summaries[0]["experiment"] == experiment
        ]
        if listed:
            parts += [f"### Of `run_{experiment}`\n", table(_INDEX, listed)]
    contents = "\n".join(f"- [{title}](#{anchor(title)})" for title in titles)
    return "\n".join([_HEAD, f"{contents}\n", _TERMS, *parts])


def _index_row(
    name: str,
    summaries: Sequence[Mapping],
    pages: Mapping[str, object],
    descriptions: Mapping[str, str],
) -> list[object]:
    """A preset's line in the list of those with `pages`."""
    about = linked_prose(
        _first_sentence(descriptions.get(name, "")), pages, descriptions
    )
    finished = [run for one in summaries for run in _finished(one)]
    seeds = {run["seed"] for run in finished}
    about = about.replace("|", "\\|")
    return [preset_link(name), about, len(finished), len(seeds)]


def _finished(summary: Mapping) -> list[Mapping]:
    """The summary, or the runs of a leak matrix, which are of several seeds."""
    if "cells" not in summary:
        return [summary]
    runs = [run for cell in summary["cells"] for run in cell["runs"]]
    return [run for run in runs if not run["error"]]


def _first_sentence(description: str) -> str:
    """In one line; an abbreviation is followed by no capital."""
    found = re.match(r".+?[.?](?=\s+[A-Z`\"]|\s*$)", description, flags=re.DOTALL)
    return " ".join((found[0] if found else description).split())


def run_folder(preset: str, targets: Sequence[int]) -> str:
    """Returns the folder under `docs/results` of runs that have their own targets."""
    return f"{preset}_target{'_'.join(map(str, targets))}"


def families(
    root: pathlib.Path, descriptions: Iterable[str]
) -> dict[str, list[pathlib.Path]]:
    """Returns summaries by preset, in their order; those of its targets together."""
    found: dict[str, list[pathlib.Path]] = {}
    paths = root.glob("*/*/summary.json")
    for path in sorted(paths, key=lambda path: _order(f"{path.relative_to(root)}")):
        name = path.parent.parent.name
        of_target = re.fullmatch(r"(.+?)_target\d+(_\d+)*", name)
        if of_target and of_target[1] in descriptions:
            name = of_target[1]
        found.setdefault(name, []).append(path)
    return {name: found[name] for name in sorted(found, key=_order)}


def _order(name: str) -> tuple[str, ...]:
    """Numbers within names count as numbers: seed 10 comes after seed 9."""
    parts = re.split(r"(\d+)", name)
    numbers = (part.zfill(9) if part.isdigit() else part for part in parts)
    return *numbers, name  # "_003" and "_0003" have one order, too.


def _read(path: pathlib.Path) -> dict:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: {error}; expected a run's summary.json; copy it anew"
        ) from None
    if summary.get("experiment") not in TABLES:
        raise InputError(
            f"{path} is of experiment {summary.get('experiment')!r}: expected one of "
            f"{', '.join(TABLES)}; remove it"
        )
    return summary
