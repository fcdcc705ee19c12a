"""Benchmark f: the turn pair's share of the machine's matrix multiplication rate.

    python -m benchmarks.gemm_share

The peak is what `tf.matmul` reaches on large float32 matrices with the same threads.
The turn pair's operations are counted by hand (`turn_pair_flops`); its time is that of
benchmark a. A profile of the hand-written function says which kinds of TensorFlow
operations the time goes to.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from benchmarks import program, turn_pair
from benchmarks.figures import Figure, compare
from benchmarks.hand_written_turns import Settings
from benchmarks.harness import Contender, interleave

_SIZE = 2048
_GEMM_FLOPS = 2 * _SIZE**3
_KINDS_SHOWN = 12
# "path/of/the/node:Kind" in a trace; other events have no such name.
_OPERATION = re.compile(r"^[^:]+:(\w+)$")


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns the peak, both shares and the profile; see `program.Measure`."""
    ours, hand_written, _ = turn_pair.build(threads)
    times = interleave(
        {"GEMM": _gemm(), "in_process": ours, "hand-written": hand_written},
        seconds=seconds,
    )
    flops = turn_pair_flops(Settings(), turn_pair.IMAGES)
    shares = [
        compare(
            "f",
            "share of the GEMM peak",
            times,
            "GEMM",
            name,
            scale=flops / _GEMM_FLOPS,
            note=note,
        )
        for name, note in (
            ("in_process", f"{flops / 1e9:.0f} GFLOP a turn pair"),
            ("hand-written", _profile_text(profile(hand_written))),
        )
    ]
    # Seconds over seconds: the ratio of shares[0] in GFLOP/s.
    peak = _GEMM_FLOPS / shares[0].medians["GEMM"] / 1e9
    return [Figure("f", "float32 GEMM peak", peak, unit="GFLOP/s"), *shares]


def turn_pair_flops(settings: Settings, images: int) -> int:
    """Counts a turn pair's operations in convolutions and matrix products.

    A multiplication and an addition are two. A layer's backward pass takes as much
    as its forward pass for the gradient of its weights, and again for that of its
    inputs; neither pictures nor latents want one. A transposed convolution is
    counted as the convolution that it transposes, border included. Element-wise
    work, pooling and normalisation are not counted.

    Args:
      settings: of the turn pair.
      images: that each participant holds.
    """
    classifier = [
        28 * 28 * 5 * 5 * 32,  # convolution to 28x28x32
        5 * 5 * 5 * 5 * 32 * 64,  # on 9x9x32, to 5x5x64
        256 * 200,
        200 * (settings.fake_class + 1),
    ]
    filters = settings.base_filters
    generator = [
        4 * 4 * 100 * 4 * filters,  # to 4x4
        4 * 4 * (4 * 4) * 4 * filters * 2 * filters,  # to 8x8
        8 * 8 * (4 * 4) * 2 * filters * filters,  # to 16x16
        16 * 16 * (4 * 4) * filters,  # to 32x32x1
    ]
    descent = 3 * sum(classifier) - classifier[0]
    # The gradient goes through the classifier to the picture, not to its weights.
    generator_step = 3 * sum(generator) - generator[0] + 2 * sum(classifier)
    steps = settings.generator_steps * settings.batch_size
    multiplications = (
        (2 * images + settings.fakes) * descent
        + steps * generator_step
        + settings.fakes * sum(generator)
    )
    return 2 * multiplications


def profile(call: Callable[[], object]) -> dict[str, float]:
    """Returns the share of each kind of operation in the time of all of them.

    An operation's time is that of the thread that starts it, until it is done.
    """
    # TensorFlow ships the format of its traces, but names it in no public module.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            call()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    spent: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if found := _OPERATION.match(name):
                    spent[found[1].removeprefix("_MklNative")] += event.duration_ps
    total = sum(spent.values())
    return {kind: time / total for kind, time in spent.most_common()}


def _profile_text(shares: Mapping[str, float]) -> str:
    shown = list(shares.items())[:_KINDS_SHOWN]
    rest = 1.0 - sum(share for _, share in shown)
    parts = [f"{kind} {100 * share:.0f}%" for kind, share in shown]
    return f"time in operations: {', '.join(parts)}, others {100 * rest:.0f}%"


def _gemm() -> Contender:
    generator = tf.random.Generator.from_seed(0)
    left, right = (generator.normal([_SIZE, _SIZE]) for _ in range(2))

    @tf.function
    def product():
        return tf.matmul(left, right)

    return product


if __name__ == "__main__":
    program.run(measure)
