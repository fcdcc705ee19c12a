"""The figures of a run: their bounds, their table, and what machine they are of."""

import dataclasses
import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Ratio, Times, medians, ratio_of_medians

_PACKAGES = ("tensorflow", "tensorflow-federated", "numpy")


@dataclasses.dataclass(frozen=True)
class Bound:
    """A limit on a figure: `at_most`, `at_least`, or both None for none."""

    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value keeps to it."""
        below = self.at_most is None or value <= self.at_most
        return below and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "-" if self.at_least is None else f">= {self.at_least:g}"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
      benchmark: its letter, a to h.
      name: what is measured; a ratio is named "numerator / denominator".
      value: None if it could not be measured; `note` says why.
      low: of the 95% interval, if there is one.
      high: see `low`.
      unit: empty for a ratio.
      bound: what the value has to keep to.
      medians: in seconds, by contender, of the rounds behind the figure.
      rounds: how many these are.
      note: what a reader has to know.
      broken: whether the benchmark itself failed.
    """

    benchmark: str
    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    bound: Bound = Bound()
    medians: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rounds: int = 0
    note: str = ""
    broken: bool = False

    @property
    def verdict(self) -> str:
        """`skipped`, `stated` (without a bound), `pass` or `fail`.

        A question mark follows if the interval lies on both sides of the bound.
        """
        if self.broken:
            return "fail"
        if self.value is None:
            return "skipped"
        if self.bound == Bound():
            return "stated"
        holds = self.bound.holds(self.value)
        ends = [
            self.bound.holds(end) for end in (self.low, self.high) if end is not None
        ]
        doubt = "?" if any(end != holds for end in ends) else ""
        return ("pass" if holds else "fail") + doubt

    def as_dict(self) -> dict[str, Any]:
        """Returns the figure in JSON's types."""
        return {
            **dataclasses.asdict(self),
            "medians": dict(self.medians),
            "verdict": self.verdict,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Figure":
        """Undoes `as_dict`."""
        fields = {key: value for key, value in values.items() if key != "verdict"}
        return cls(**{**fields, "bound": Bound(**values["bound"])})


def compare(
    benchmark: str,
    name: str,
    times: Times,
    numerator: str,
    denominator: str,
    *,
    scale: float = 1.0,
    bound: Bound | None = None,
    note: str = "",
) -> Figure:
    """Returns the figure of two contenders: numerator / denominator * scale.

    Args:
      benchmark: its letter.
      name: what the contenders do.
      times: from `harness.interleave`.
      numerator: a contender.
      denominator: another one.
      scale: makes units of the times the same, e.g. seconds a client.
      bound: on the scaled ratio.
      note: see `Figure`.
    """
    ratio: Ratio = ratio_of_medians(times[numerator] * scale, times[denominator])
    return Figure(
        benchmark,
        f"{name}: {numerator} / {denominator}",
        *ratio,
        bound=bound or Bound(),
        medians=medians({key: times[key] for key in (numerator, denominator)}),
        rounds=len(times[numerator]),
        note=note,
    )


def skipped(benchmark: str, name: str, reason: str) -> Figure:
    """Returns a figure that could not be measured."""
    return Figure(benchmark, name, None, note=reason)


def broken(benchmark: str, name: str, reason: str) -> Figure:
    """Returns a figure of a benchmark that failed to run."""
    return Figure(benchmark, name, None, broken=True, note=reason)


def check_equal(
    name: str, found: Sequence[Any], expected: Sequence[Any], tolerance: float
) -> float:
    """Makes sure that two contenders computed the same.

    Args:
      name: of what was computed.
      found: tensors of one.
      expected: tensors of the other, in the same order.
      tolerance: of the difference, relative to what was expected, both as Euclidean
        norms over all tensors.

    Returns:
      That relative difference.

    Raises:
      AssertionError: if it is larger, or shapes differ.
    """
    squares, total = 0.0, 0.0
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if one.shape != other.shape:
            raise AssertionError(f"{name}: shapes {one.shape} and {other.shape}")
        squares += np.square(one - other).sum()
        total += np.square(other).sum()
    difference = math.sqrt(squares / total) if total else math.inf
    if not difference <= tolerance:
        raise AssertionError(
            f"{name} differs by {difference:.2g} of its size; expected at most "
            f"{tolerance:g}: the contenders do not do the same work"
        )
    return difference


def table(figures: Sequence[Figure]) -> str:
    """Returns the figures as text, a line each, notes below."""
    header = ("", "figure", "value [95% interval]", "bound", "verdict", "medians")
    rows = [header, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    notes = [f"{f.benchmark}: {f.name}: {f.note}" for f in figures if f.note]
    if notes:
        lines += ["", *notes]
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, Any]:
    """Returns what the figures depend on, and the load that the machine had."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cells(figure: Figure) -> tuple[str, ...]:
    value = "-" if figure.value is None else f"{figure.value:.3g}"
    if figure.unit:
        value += f" {figure.unit}"
    if figure.low is not None and figure.high is not None:
        value += f" [{figure.low:.3g}, {figure.high:.3g}]"
    times = ", ".join(
        f"{name} {1000 * seconds:.4g} ms" for name, seconds in figure.medians.items()
    )
    if figure.rounds:
        times += f" ({figure.rounds} rounds)"
    return (
        figure.benchmark,
        figure.name,
        value,
        str(figure.bound),
        figure.verdict,
        times,
    )


def _processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line for line in text.splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def _git_commit() -> str | None:
    """The commit of this code, `-dirty` if changed since, None if unknown."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            [*command, "--abbrev=40", "--exclude=*"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
