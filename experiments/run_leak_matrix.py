"""Every attack against every defence: what leaks, and what stopping it costs.

    python -m experiments.run_leak_matrix \
        --flagfile=experiments/configs/leak_matrix_digits_quick.flags \
        --output_dir=runs/matrix

Runs the experiments' binaries side by side, each in a run directory of its own below
this one, and writes one report. A run that fails is shown as failed with its reason,
stops no other, and makes the exit code 1. The same command goes on with a matrix that
was interrupted or had failures; with more seeds, attacks or defences it adds theirs.
"""

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from absl import flags

from experiments import leak_matrix_program, leak_matrix_report, place_flags
from experiments.federation import integers
from experiments.leak_matrix_cells import MATRICES
from tff_leak.errors import InputError
from tff_leak.runtime import cli, jobs, ray_jobs
from tff_leak.runtime.progress import Progress
from tff_leak.runtime.run_directory import RunDirectory, atomic_write_json

# --help shows them as well.
flags.adopt_module_key_flags(place_flags)
_MATRIX = flags.DEFINE_enum(
    "matrix", "digits", list(MATRICES), "Which data set's attacks and defences."
)
_ATTACKS = flags.DEFINE_list("attacks", [], "Names; empty: all.")
_DEFENCES = flags.DEFINE_list("defences", [], "Names, with none; empty: all.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Of each cell.")
_QUICK = flags.DEFINE_bool("quick", False, "Shorter runs, and fewer cells.")
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Runs at a time; default: one a core (and for each of a run's threads), on a "
    "cluster as many as it has place for.",
    lower_bound=1,
)
_THREADS_PER_JOB = flags.DEFINE_integer(
    "threads_per_job", 1, "Threads of each run.", lower_bound=1
)
_RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "Ray cluster to run on: HOST:PORT, or auto for this machine's; --output_dir and "
    "the code must lie on a file system that its machines share. Default: none.",
)

_FAILED = 1
# What a matrix may have more of when it is gone on with.
_VOLATILE = ("attacks", "defences", "seeds", "workers", "ray_address", "data_dir")


def main(argv: list[str]) -> int:
    """Reads the flags, runs the cells, writes and announces the report."""
    del argv
    place_flags.check("runs/matrix")
    plan = leak_matrix_program.build_plan(
        MATRICES[_MATRIX.value],
        attacks=_ATTACKS.value,
        defences=_DEFENCES.value,
        seeds=integers(_SEEDS),
        threads=_THREADS_PER_JOB.value,
        quick=_QUICK.value,
    )
    with (
        _starter() as (start, at_once),
        RunDirectory.open(
            place_flags.OUTPUT_DIR.value, _config(), volatile=_VOLATILE
        ) as directory,
    ):
        some = leak_matrix_program.jobs_of(plan, directory.path, _data_dir())
        outcomes = _run(some, start, at_once or len(some))
        summary = _identity() | leak_matrix_program.collect(
            plan, outcomes, directory.path
        )
        atomic_write_json(directory.summary, summary)
        print(leak_matrix_report.write_report(summary, directory))
        print(f"Report: {directory.report}")
    return _FAILED if summary["counts"]["failed"] else cli.OK


@contextmanager
def _starter() -> Iterator[tuple[jobs.Start, int | None]]:
    """What starts jobs, and how many at a time; None: all."""
    threads = _THREADS_PER_JOB.value
    if _RAY_ADDRESS.value:
        with ray_jobs.cluster(_RAY_ADDRESS.value, cpus=threads) as start:
            yield start, _WORKERS.value
        return
    cores = len(os.sched_getaffinity(0))
    if threads > cores:
        raise InputError(
            f"--threads_per_job is {threads}: expected at most {cores}, the cores that "
            "this command may use; lower it, or give a cluster by --ray_address"
        )
    yield jobs.LocalProcess, _WORKERS.value or max(cores // threads, 1)


def _run(
    some: list[jobs.Job], start: jobs.Start, at_once: int
) -> dict[str, jobs.Outcome]:
    ended = failed = 0
    with Progress(len(some), "leak matrix", shown=("failed",), unit="run") as progress:

        def count(job: jobs.Job, outcome: jobs.Outcome) -> None:
            nonlocal ended, failed
            ended += 1
            failed += not outcome.ok
            if outcome.seconds is not None:  # Those done before are no progress.
                progress.update(ended, {"failed": failed})

        progress.start(sum(map(jobs.is_done, some)))
        return jobs.run(some, start, at_once=at_once, on_outcome=count)


def _data_dir() -> pathlib.Path | None:
    """Where the data are, for runs whose working directory is another."""
    place = place_flags.DATA_DIR.value or os.environ.get("TFDS_DATA_DIR")
    return pathlib.Path(place).expanduser() if place else None


def _identity() -> dict[str, Any]:
    """What a matrix is, whatever parts of it were run."""
    return {
        "experiment": "leak_matrix",
        "matrix": _MATRIX.value,
        "dataset": _MATRIX.value,
        "quick": _QUICK.value,
        "threads_per_job": _THREADS_PER_JOB.value,
    }


def _config() -> dict[str, Any]:
    return _identity() | {
        "attacks": _ATTACKS.value,
        "defences": _DEFENCES.value,
        "seeds": integers(_SEEDS),
        "workers": _WORKERS.value,
        "ray_address": _RAY_ADDRESS.value,
        "data_dir": place_flags.DATA_DIR.value,
    }


if __name__ == "__main__":
    cli.run_main(main)
