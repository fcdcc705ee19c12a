"""Which of the papers' networks go with which pictures."""

from tff_leak.errors import InputError
from tff_leak.models import classifiers, generators
from tff_leak.models.network import Network


def papers_classifier(image_shape: tuple[int, int, int], num_outputs: int) -> Network:
    """Returns Hitaj et al.'s CNN (section 8.3) for pictures of this size.

    Raises:
      InputError: if the pictures are neither 32x32 nor 64x64.
    """
    height, width, channels = image_shape
    if (height, width) == (32, 32):
        return classifiers.hitaj_mnist(num_outputs, channels)
    if (height, width) == (64, 64):
        return classifiers.hitaj_att(num_outputs, channels)
    raise InputError(
        f"pictures are {height}x{width}: expected 32x32 or 64x64, the sizes of the "
        "paper's networks; resize the data set"
    )


def papers_networks(
    image_shape: tuple[int, int, int], num_classes: int, base_filters: int
) -> tuple[Network, Network]:
    """Returns Hitaj et al.'s classifier and generator for pictures of this size.

    The classifier has one output more than classes, for the fakes.

    Raises:
      InputError: if the pictures are neither 32x32 nor 64x64.
    """
    classifier = papers_classifier(image_shape, num_classes + 1)
    height, _, channels = image_shape
    build = generators.hitaj_mnist if height == 32 else generators.hitaj_att
    return classifier, build(base_filters, channels)
