"""Benchmark d: what growing cohorts cost, in time a client and in memory.

    python -m benchmarks.cohort

10, 100 and 1000 small clients, `computations.fed_avg` in the in-process context. Memory
is measured in a process of its own for each cohort: how far the peak of its resident
memory lies above what it held before the computation was built. There all clients'
datasets share one set of examples, so that the data of more clients is not in the
figure. As a control of that measurement, 1000 clients whose rows the server keeps.
"""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from benchmarks import contexts, observation, program, workloads
from benchmarks.figures import Bound, Figure, compare
from benchmarks.harness import Contender, interleave

_COHORTS = (10, 100, 1000)
# The smallest cohort runs so often in one measurement that it is not all noise.
_REPEATED = {10: 10}
_TIME = Bound(at_most=1.1)
_MEMORY = Bound(at_most=1.5)
_ROUNDS = 3
_MB = 2.0**20

_PEAK_OF = flags.DEFINE_integer(
    "peak_of", None, "Only prints the growth of memory, in bytes, for this cohort."
)
_ROWS = flags.DEFINE_bool("rows", False, "With --peak_of: the server keeps the rows.")


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns the figures, or prints that of --peak_of; see `program.Measure`."""
    if _PEAK_OF.value:
        growth = measure_growth(threads, _PEAK_OF.value, _ROWS.value)
        print(f"memory: {growth} {_peak()}")
        return []
    return [*_time_figures(threads, seconds), *_memory_figures(threads)]


def measure_growth(threads: int, clients: int, rows: bool) -> int:
    """Returns how many bytes this process grows by, at its peak, for some rounds.

    Args:
      threads: of TensorFlow.
      clients: in the cohort.
      rows: whether the server keeps them.
    """
    context = contexts.in_process(threads)
    work = workloads.small_mlp(clients)
    data = workloads.shared_datasets(work)
    before = _reset_peak()
    if rows:
        process = observation.build_observed(work)
        data = observation.identified(data)
    else:
        process = observation.build_plain(work)
    state = contexts.calling(context, process.initialize)()
    one_more = workloads.rounds(contexts.calling(context, process.next), state, data)
    for _ in range(_ROUNDS):
        one_more()
    return _peak() - before


def _time_figures(threads: int, seconds: float) -> list[Figure]:
    context = contexts.in_process(threads)
    largest = workloads.small_mlp(max(_COHORTS))
    datasets = workloads.client_datasets(largest)
    process = observation.build_plain(largest)
    start = contexts.calling(context, process.initialize)()
    next_round = contexts.calling(context, process.next)
    contenders: dict[str, Contender] = {}
    for clients in _COHORTS:
        one_round = workloads.rounds(next_round, start, datasets[:clients])
        contenders[_name(clients)] = _times(one_round, _REPEATED.get(clients, 1))
    times = interleave(contenders, seconds=seconds)
    smallest = _COHORTS[0]
    in_smallest = smallest * _REPEATED.get(smallest, 1)
    return [
        compare(
            "d",
            "time a client",
            times,
            _name(clients),
            _name(smallest),
            scale=in_smallest / (clients * _REPEATED.get(clients, 1)),
            bound=_TIME,
            note=f"medians of {_REPEATED[smallest]} rounds of {smallest} clients, and "
            f"of one of {clients}",
        )
        for clients in _COHORTS[1:]
    ]


def _memory_figures(threads: int) -> list[Figure]:
    _, middle, largest = _COHORTS
    base, base_peak = _growth_elsewhere(threads, middle)
    plain, plain_peak = _growth_elsewhere(threads, largest)
    kept, _ = _growth_elsewhere(threads, largest, "--rows")
    note = (
        f"{plain / _MB:.0f} and {base / _MB:.0f} MB above what was there before; whole "
        f"processes at their peak {plain_peak / _MB:.0f} and {base_peak / _MB:.0f} MB"
    )
    control = f"{kept / _MB:.0f} MB; the measurement has to see this"
    return [
        Figure(
            "d",
            f"memory: {largest} clients / {middle} clients",
            plain / base,
            bound=_MEMORY,
            note=note,
        ),
        Figure(
            "d",
            f"memory, control: {largest} clients with rows / {middle} without",
            kept / base,
            note=control,
        ),
    ]


def _growth_elsewhere(threads: int, clients: int, *more: str) -> tuple[int, int]:
    """`measure_growth` in a new process, and that process's peak, in bytes."""
    command = [sys.executable, "-m", "benchmarks.cohort", f"--threads={threads}"]
    done = subprocess.run(
        [*command, f"--peak_of={clients}", *more],
        cwd=pathlib.Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (line,) = [s for s in done.stdout.splitlines() if s.startswith("memory: ")]
    growth, peak = line.split()[1:]
    return int(growth), int(peak)


def _reset_peak() -> int:
    """Forgets the peak so far, where Linux lets us, and returns what is held now.

    Where it does not, the peak of the imports stays; it lies below that of any round.
    """
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    """A figure of /proc/self/status in bytes."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in text.splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def _name(clients: int) -> str:
    return f"{clients} clients"


def _times(call: Contender, count: int) -> Contender:
    def run():
        for _ in range(count):
            call()

    return run


if __name__ == "__main__":
    program.run(measure)
