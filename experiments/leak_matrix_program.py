"""A leak matrix: which cells there are, their jobs, and what came of them."""

import collections
import dataclasses
import enum
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import experiments
from experiments import leak_matrix_figures as figures
from experiments import preset_files
from experiments.leak_matrix_cells import (
    NO_DEFENCE,
    Attack,
    Defence,
    Matrix,
    Program,
    change_of,
    threat_under,
)
from tff_leak.errors import InputError
from tff_leak.runtime.jobs import Job, Outcome

# Presets name one another by paths from here.
ROOT = pathlib.Path(experiments.__file__).parents[1]


_MEANS = (
    *("leakage", "late_leakage", "control"),
    *("task_accuracy", "judge_share", "seconds"),
    *("identified", "identified_control"),
)
"""Of a cell, over its seeds."""
_ON_A_SCALE = ("leakage", "late_leakage")


class Status(enum.Enum):
    """What became of a cell.

    REFUSED: the combination contradicts itself. NOT_APPLICABLE: the defence is none
    against this attack.
    """

    MEASURED = "measured"
    FAILED = "failed"
    REFUSED = "refused"
    NOT_APPLICABLE = "not_applicable"


@dataclasses.dataclass(frozen=True)
class Cell:
    """An attack against a defence.

    Attributes:
      attack: its column.
      defence: its row.
      arguments: of Python, without the seed; empty where nothing can be run.
      settings: the flags of the preset among them.
      status: why nothing can, MEASURED otherwise.
      reason: the same in words; empty otherwise.
    """

    attack: Attack
    defence: Defence
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    status: Status = Status.MEASURED
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
      matrix: where it is from.
      attacks: columns, in order.
      defences: rows, in order.
      seeds: of each cell.
      threads: of each run.
      cells: by the names of attack and defence.
    """

    matrix: Matrix
    attacks: Sequence[Attack]
    defences: Sequence[Defence]
    seeds: Sequence[int]
    threads: int
    cells: Mapping[tuple[str, str], Cell]


def build_plan(
    matrix: Matrix,
    *,
    attacks: Sequence[str],
    defences: Sequence[str],
    seeds: Sequence[int],
    threads: int,
    quick: bool,
) -> Plan:
    """Chooses the cells.

    Args:
      matrix: to choose from.
      attacks: names; empty for all, or all of a quick matrix.
      defences: the same; no defence is among them.
      seeds: at least one, from 0, each once.
      threads: of each run.
      quick: whether runs are made short.

    Raises:
      InputError: for an unknown name, or if there is nothing to measure against.
    """
    columns, rows = chosen(matrix, attacks, defences, quick)
    if NO_DEFENCE.name not in (row.name for row in rows):
        raise InputError(
            f"--defences is {','.join(defences)!r}: expected {NO_DEFENCE.name} among "
            "them, whose runs give the others their floor and reference; add it"
        )
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"--seeds is {','.join(map(str, seeds))!r}: expected numbers from 0, at "
            "least one and each once; correct the list"
        )
    cells = {
        (attack.name, defence.name): _cell(attack, defence, quick)
        for attack in columns
        for defence in rows
    }
    return Plan(matrix, columns, rows, seeds, threads, cells)


def chosen(
    matrix: Matrix, attacks: Sequence[str], defences: Sequence[str], quick: bool
) -> tuple[list[Attack], list[Defence]]:
    """Returns the attacks and defences that names stand for, in the matrix's order.

    Args:
      matrix: to choose from.
      attacks: names; empty for all, or all of a quick matrix.
      defences: the same.
      quick: whether it is a quick one.

    Raises:
      InputError: for an unknown name, or one that stands twice.
    """
    usual = matrix.quick if quick else (tuple(matrix.attacks), tuple(matrix.defences))
    return (
        _chosen("attacks", attacks, matrix.attacks, usual[0]),
        _chosen("defences", defences, matrix.defences, usual[1]),
    )


def jobs_of(
    plan: Plan, directory: pathlib.Path, data_dir: pathlib.Path | None
) -> list[Job]:
    """Returns the jobs, all cells of a seed before those of the next one.

    Args:
      plan: the cells.
      directory: of the matrix.
      data_dir: of TFDS; None for the usual one.
    """
    return [
        _job(plan, cell, seed, directory.resolve(), data_dir)
        for seed in plan.seeds
        for cell in plan.cells.values()
        if cell.status is Status.MEASURED
    ]


def run_directory(attack: str, defence: str, seed: int) -> pathlib.PurePosixPath:
    """Returns where a run is, relative to the matrix."""
    return pathlib.PurePosixPath("cells", attack, defence, str(seed))


def collect(
    plan: Plan, outcomes: Mapping[str, Outcome], directory: pathlib.Path
) -> dict[str, Any]:
    """Returns the matrix's part of `summary.json`: a dictionary a cell.

    Its `code` says how many runs are of which version of the code, since a matrix that
    is gone on with keeps those of before.

    Args:
      plan: what was to be run.
      outcomes: by job.
      directory: of the matrix.
    """
    found: dict[str, figures.Figures] = {}
    errors = {name: one.reason for name, one in outcomes.items() if not one.ok}
    versions: collections.Counter[str] = collections.Counter()
    for name in outcomes:
        if name in errors:
            continue
        run = directory / "cells" / name
        try:
            found[name] = figures.read(_json(run / "summary.json"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            errors[name] = (
                f"cells/{name}/summary.json cannot be read ({error!r}): remove it and "
                "repeat the command"
            )
            continue
        versions[_version(run)] += 1
    cells = [_summary(cell, plan.seeds, errors, found) for cell in plan.cells.values()]
    counts = {
        status.value: sum(cell["status"] == status.value for cell in cells)
        for status in Status
    }
    return {
        "attacks": [attack.name for attack in plan.attacks],
        "defences": [defence.name for defence in plan.defences],
        "seeds": list(plan.seeds),
        "counts": counts,
        "code": dict(versions.most_common()),
        "cells": cells,
    }


def _version(run: pathlib.Path) -> str:
    """The commit that a run is of, as its configuration has it."""
    try:
        return _json(run / "config.json")["git_commit"] or "unknown"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _json(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _chosen(
    flag: str, names: Sequence[str], known: Mapping[str, Any], usual: Sequence[str]
) -> list[Any]:
    for name in names:
        if name not in known or names.count(name) > 1:
            raise InputError(
                f"--{flag} has {name!r}: expected some of {', '.join(known)}, each "
                "once; correct the list"
            )
    wanted = names or usual
    return [entry for name, entry in known.items() if name in wanted]


def _cell(attack: Attack, defence: Defence, quick: bool) -> Cell:
    try:
        threat_under(attack, defence)
    except InputError as error:
        return Cell(attack, defence, status=Status.REFUSED, reason=str(error))
    change = change_of(attack, defence)
    if isinstance(change, str):
        return Cell(attack, defence, status=Status.NOT_APPLICABLE, reason=change)
    if isinstance(change, Program):
        return Cell(
            attack, defence, _arguments(change, (), quick), _preset_flags(change)
        )
    more = attack.controlled if defence.name == NO_DEFENCE.name else attack.defended
    return Cell(
        attack,
        defence,
        _arguments(attack.program, (*more, *change), quick),
        _preset_flags(attack.program),
    )


def _preset_flags(program: Program) -> tuple[str, ...]:
    """What the preset says today: a run of what it said before is not done."""
    if program.preset is None:
        return ()
    flags = preset_files.read(preset_files.CONFIGS / f"{program.preset}.flags")
    return tuple(f"--{name}={value}" for name, value in flags.items())


def _arguments(program: Program, more: Sequence[str], quick: bool) -> tuple[str, ...]:
    preset = f"--flagfile=experiments/configs/{program.preset}.flags"
    return (
        *("-m", program.module),
        *((preset,) if program.preset else ()),
        *program.flags,
        *(program.quick if quick else ()),
        *more,
    )


def _name(attack: str, defence: str, seed: int) -> str:
    return f"{attack}/{defence}/{seed}"


def _job(
    plan: Plan,
    cell: Cell,
    seed: int,
    directory: pathlib.Path,
    data_dir: pathlib.Path | None,
) -> Job:
    names = (cell.attack.name, cell.defence.name)
    output = directory / run_directory(*names, seed)
    # Cells of one seed are looked at by the same judge, which one of them trains.
    places = [f"--output_dir={output}", f"--judges={directory / 'judges'}"]
    if data_dir is not None:
        places.append(f"--data_dir={data_dir.resolve()}")
    return Job(
        name=_name(*names, seed),
        arguments=(*cell.arguments, f"--seed={seed}", f"--threads={plan.threads}"),
        settings=cell.settings,
        directory=ROOT,
        result=output / "summary.json",
        record=directory.joinpath("jobs", *names, f"{seed}.json"),
        places=tuple(places),
    )


def _summary(
    cell: Cell,
    seeds: Sequence[int],
    errors: Mapping[str, str],
    found: Mapping[str, figures.Figures],
) -> dict[str, Any]:
    """One cell, as in `summary.json`."""
    summary = {
        "attack": cell.attack.name,
        "attack_title": cell.attack.title,
        "defence": cell.defence.name,
        "defence_title": cell.defence.title,
        "family": cell.defence.family or cell.defence.name,
        "measure": cell.attack.measure.value,
        "status": cell.status.value,
        "reason": cell.reason,
        "arguments": list(cell.arguments),
        "runs": [],
    }
    if cell.status is not Status.MEASURED:
        return summary
    runs = [_run(cell, seed, errors, found) for seed in seeds]
    failed = [run for run in runs if run["error"]]
    if failed:
        first = failed[0]
        summary |= {
            "status": Status.FAILED.value,
            "reason": f"seed {first['seed']}: {first['error']}",
        }
    measured = [run for run in runs if not run["error"]]
    # A seed whose run without a defence failed takes nothing from the others.
    scaled = [run for run in measured if not run["without_scale"]]
    summary["reason"] = summary["reason"] or _left_out(measured)
    return summary | {
        "runs": runs,
        **{
            key: figures.over_seeds(
                [run[key] for run in (scaled if key in _ON_A_SCALE else measured)]
            )
            for key in _MEANS
        },
        "reached": _count([run["reached"] for run in measured]),
        "epsilon": _largest_epsilon([run["epsilon"] for run in measured]),
    }


def _left_out(measured: Sequence[Mapping[str, Any]]) -> str:
    """Which seeds have nothing to be measured by; empty if all have."""
    seeds = [str(run["seed"]) for run in measured if run["without_scale"]]
    if not seeds:
        return ""
    return (
        f"without seed {', '.join(seeds)}: the run without a defence failed, whose "
        "floor and reference count"
    )


def _run(
    cell: Cell,
    seed: int,
    errors: Mapping[str, str],
    found: Mapping[str, figures.Figures],
) -> dict[str, Any]:
    """One seed of a cell."""
    name = _name(cell.attack.name, cell.defence.name, seed)
    if name not in found:
        return {"seed": seed, "error": errors[name]}
    own = found[name]
    undefended = found.get(_name(cell.attack.name, NO_DEFENCE.name, seed))
    run = dataclasses.asdict(own)
    return run | {
        "seed": seed,
        "error": "",
        "leakage": figures.leakage(own, undefended),
        "late_leakage": figures.late_leakage(own, undefended),
        "own_leakage": own.leakage,
        "without_scale": own.scale is not None and undefended is None,
    }


def _count(values: Sequence[bool | None]) -> int | None:
    """How many are true; None where none is defined."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _largest_epsilon(values: Sequence[float | str | None]) -> float | str | None:
    known = [value for value in values if value is not None]
    return max(known, key=float, default=None)
