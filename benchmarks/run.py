"""Runs the benchmarks, prints their table and writes their figures.

    python -m benchmarks.run [--only=a,c] [--output=FILE]

    a  turn_pair          a turn pair of Hitaj et al. against hand-written TensorFlow
    b  fed_avg_contexts   TFF's FedAvg in the contexts of TFF and of this project
    c  observation        every client's row observed against not observed
    d  cohort             time a client and memory as cohorts grow
    e  pfl_cohort         a cohort of 50 against Apple's pfl with PyTorch
    f  gemm_share         share of the machine's matrix multiplication rate in (a)
    g  representatives    update matching for ten clients at once against SciPy
    h  pooling            the body of a training loop compiled apart against inlined

Each is a program of its own, in a process of its own (`python -m benchmarks.cohort`).
The exit status is 1 if a figure misses its bound or a benchmark fails. `make
bench-pfl-env` makes the environment that (e) needs; without it (e) makes it.
"""

# bazel: dep = benchmarks.cohort, benchmarks.fed_avg_contexts, benchmarks.gemm_share
# bazel: dep = benchmarks.observation, benchmarks.pfl_cohort, benchmarks.pooling
# bazel: dep = benchmarks.representatives, benchmarks.turn_pair

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import app, flags

from benchmarks import figures, pfl_environment
from benchmarks.figures import Figure
from tff_leak.runtime.atomic import atomic_write_json

# Module, and seconds for the measured rounds of each of its comparisons.
BENCHMARKS = {
    "a": ("turn_pair", 45),
    "b": ("fed_avg_contexts", 30),
    "c": ("observation", 20),
    "d": ("cohort", 30),
    "e": ("pfl_cohort", 50),
    "f": ("gemm_share", 20),
    "g": ("representatives", 30),
    "h": ("pooling", 20),
}
_TIMEOUT_S = 900
_ROOT = pathlib.Path(__file__).parents[1]

_ONLY = flags.DEFINE_list("only", list(BENCHMARKS), "Letters of the benchmarks to run.")
_OUTPUT = flags.DEFINE_string(
    "output", "runs/bench/results.json", "The figures, as JSON; its folder is made."
)
_QUICK = flags.DEFINE_bool("quick", False, "Only the fewest rounds: does it run?")


def main(argv: Sequence[str]) -> None:
    """Runs what --only names, one after another."""
    del argv
    unknown = sorted(set(_ONLY.value) - set(BENCHMARKS))
    if unknown:
        names = ",".join(BENCHMARKS)
        print(
            f"--only has {unknown[0]!r}: expected some of {names}; correct it",
            file=sys.stderr,
        )
        sys.exit(2)
    if "e" in _ONLY.value:
        prepare_pfl()  # Not part of the time that the benchmarks take.
    machine, started = figures.machine(), time.monotonic()
    if machine["load_average"][0] > machine["cores"] / 4:
        print("The machine is busy: what comes out says little.", file=sys.stderr)
    found: list[Figure] = []
    for letter in BENCHMARKS:
        if letter in _ONLY.value:
            print(f"benchmark {letter}: {BENCHMARKS[letter][0]} ...", flush=True)
            found += run_benchmark(letter, quick=_QUICK.value)
    output = pathlib.Path(_OUTPUT.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    seconds = time.monotonic() - started
    values = [figure.as_dict() for figure in found]
    atomic_write_json(
        output, {"machine": machine, "seconds": seconds, "figures": values}
    )
    print(f"\n{figures.table(found)}\n\n{seconds:.0f} s; figures in {output}")
    if any(figure.verdict.startswith("fail") for figure in found):
        sys.exit(1)


def run_benchmark(letter: str, *, quick: bool = False) -> list[Figure]:
    """Runs one benchmark in a process of its own; one that fails is a figure, too."""
    name, seconds = BENCHMARKS[letter]
    seconds = 0 if quick else seconds
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "figures.json")
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        try:
            done = subprocess.run(
                [*command, f"--seconds={seconds}", f"--json={path}"],
                cwd=_ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [figures.broken(letter, name, f"took more than {_TIMEOUT_S} s")]
        if done.returncode:
            sys.stderr.write(done.stderr)
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return [figures.broken(letter, name, last)]
        return [Figure.from_dict(values) for values in json.loads(path.read_text())]


def prepare_pfl() -> None:
    """Makes the environment of (e); where that fails, (e) itself says why."""
    try:
        pfl_environment.ensure()
    except pfl_environment.UnavailableError as error:
        print(f"benchmark e: {error}", file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
