"""What the evaluations of several experiments have in common."""

from tff_leak.data.sources import Examples, Source
from tff_leak.metrics.judge import Judge, train_judge
from tff_leak.models.network import Network, visible_window
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role


def build_judge(
    network: Network, source: Source, examples: Examples, *, seed: int
) -> tuple[Judge, tuple[int, int]]:
    """Trains the judge that looks at what the attacked network can see.

    Args:
      network: the attacked classifier.
      source: where the pictures come from.
      examples: the judge's part of it, at least one.
      seed: the run's.

    Returns:
      The judge, and how many leading rows and columns the network sees.
    """
    window = visible_window(network, seeding.root(seed))
    judge = train_judge(
        examples,
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        seed=int(seeding.generator(seed, Role.JUDGE).integers(2**31)),
        mean_pixels_visible=window,
    )
    return judge, window
