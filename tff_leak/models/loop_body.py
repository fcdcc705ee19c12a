"""Bodies of loops that TensorFlow compiles apart from their loop.

TensorFlow lowers `tf.while_loop` into one graph with a cycle, and oneDNN's pass then
swaps operations for its own one after another, in an order that starts from addresses
in memory. The gradient of max pooling is swapped only if the pooling before it has been
already. In a graph without a cycle it always has. In one with a cycle that is a matter
of luck, anew for each graph, and training without it a network with pooling takes up
to 1.7 times as long (`benchmarks/pooling.py`), to the same weights. A function that is
not inlined is a graph of its own, and has no cycle.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function as one that TensorFlow does not inline where it is called.

    Args:
      function: pure, from nested tensors to nested tensors; it may use tensors from
        outside. Pooling and its gradient must both be in it. Sizes that are known at
        run time only, such as that of a last minibatch, must come about in it: XLA
        loses them where they are handed over, and a mean is then wrong.

    Returns:
      What computes the same, and costs some ten microseconds a call. It is traced
      anew for each shape of its arguments.
    """
    return tf.function(
        function, autograph=False, experimental_attributes={"_noinline": True}
    )
