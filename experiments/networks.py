"""Which of the papers' networks go with which pictures."""

from tff_leak.errors import InputError
from tff_leak.models import classifiers, generators
from tff_leak.models.network import Network


def papers_networks(
    image_shape: tuple[int, int, int], num_classes: int, base_filters: int
) -> tuple[Network, Network]:
    """Returns Hitaj et al.'s classifier and generator for pictures of this size.

    The classifier has one output more than classes, for the fakes.

    Raises:
      InputError: if the pictures are neither 32x32 nor 64x64.
    """
    height, width, channels = image_shape
    if (height, width) == (32, 32):
        classifier = classifiers.hitaj_mnist(num_classes + 1, channels)
        return classifier, generators.hitaj_mnist(base_filters, channels)
    if (height, width) == (64, 64):
        classifier = classifiers.hitaj_att(num_classes + 1, channels)
        return classifier, generators.hitaj_att(base_filters, channels)
    raise InputError(
        f"pictures are {height}x{width}: expected 32x32 or 64x64, the sizes of the "
        "paper's networks; resize the data set"
    )
