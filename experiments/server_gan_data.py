"""The data of the server's attack: who holds what, and what only the victim's have.

Wang et al., section VI-B: the victim's pictures have a property that nobody else's
have. A property is no more than the data that have it and those that have not (`Data`):

- `build_data`: a turn by an angle; the paper rotates the victim's digits by InfoGAN,
  `transforms.rotate` does it exactly;
- `glasses_data.build_glasses_data`: glasses, of people who have pictures of both kinds.
"""

import dataclasses

import numpy as np

from tff_leak.data import partition, transforms
from tff_leak.data.sources import Examples, Source
from tff_leak.errors import InputError

_MARGIN = 2  # of 32: the papers' digits are 28x28
_LEAST_HELDOUT = 2  # of a class: a picture to compare with, and one to vary from it


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The data of a run.

    Attributes:
      source: where it comes from, in the size that the networks take.
      clients: each client's examples; the victim's have the property.
      control: the same without it.
      victim: the victim's number.
      angle: by which its pictures are turned, in degrees counter-clockwise; None where
        the property is another one.
      words: what pictures with and without the property are called.
      auxiliary: the server's own pictures, all without the property.
      test: the shared model is tested on it.
      with_property: real pictures that nobody holds, for reference and templates; of
        each of the victim's classes two or more.
      without_property: real pictures for templates; the builder says whose.
      judge: the judge's part, with and without the property; none of it is in
        `with_property` or `without_property`.
      gallery: among whose people the person nearest to a picture is sought; None where
        classes are no people.
    """

    source: Source
    clients: list[Examples]
    control: list[Examples]
    victim: int
    angle: float | None
    words: tuple[str, str]
    auxiliary: Examples
    test: Examples
    with_property: Examples
    without_property: Examples
    judge: Examples
    gallery: Examples | None = None

    @property
    def held(self) -> list[int]:
        """The victim's classes, ascending."""
        return np.unique(self.clients[self.victim].labels).tolist()

    def templates(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean real pictures `[H, W, C]` of a class with and without the property."""
        both = (self.with_property, self.without_property)
        with_it, without = (part.of_class(label).images.mean(axis=0) for part in both)
        return with_it, without

    def others_images(self, label: int) -> np.ndarray:
        """Other clients' pictures of a class; where none has it, others without."""
        held = [
            data.of_class(label).images
            for number, data in enumerate(self.clients)
            if number != self.victim
        ]
        images = np.concatenate(held)
        return images if len(images) else self.without_property.of_class(label).images


def build_data(
    source: Source,
    *,
    clients: int,
    classes_per_client: int,
    per_class: int,
    victim: int,
    angle: float,
    auxiliary: int,
    seed: int,
) -> Data:
    """Shares a source out and turns the victim's pictures.

    Templates are of pictures that nobody holds; `without_property` are these, upright,
    and `with_property` the same ones, turned.

    Args:
      source: pictures of 32x32 lose a border of 2, which is empty in digits.
      clients: their number.
      classes_per_client: random ones, drawn by `seed`.
      per_class: pictures of each; "100 samples from three random classes" is read as
        100 of each.
      victim: its number, from 0.
      angle: in degrees counter-clockwise, not 0.
      auxiliary: pictures of the server, drawn from what no client holds; half of what
        is left of these is for tests, half is held out.
      seed: of the partition.

    Raises:
      InputError: if a number is out of range or the data do not suffice.
    """
    if not 0 <= victim < clients:
        raise InputError(
            f"--victim is {victim}: expected a client from 0 to {clients - 1}; "
            "correct it or --clients"
        )
    if clients < 2:
        raise InputError(
            f"--clients is {clients}: expected at least 2, a victim and another"
        )
    if angle % 360 == 0:
        raise InputError(
            f"--angle is {angle:g}: expected one that turns the victim's pictures; "
            "the control has them upright already"
        )
    source = _cropped(source)
    pools = partition.split_pools(source, seed=seed)
    upright = partition.random_classes(
        pools.participants,
        clients=clients,
        classes_per_client=classes_per_client,
        per_class=per_class,
        seed=seed,
    )
    server, test, heldout = _shared_out(pools.reference, auxiliary)
    _check_heldout(heldout, np.unique(upright[victim].labels), auxiliary)
    turned = _turned(upright[victim], angle)
    return Data(
        source=source,
        clients=[turned if i == victim else one for i, one in enumerate(upright)],
        control=upright,
        victim=victim,
        angle=angle,
        words=("turned", "upright"),
        auxiliary=server,
        test=test,
        with_property=_turned(heldout, angle),
        without_property=heldout,
        judge=Examples.concatenate([pools.judge, _turned(pools.judge, angle)]),
    )


def _turned(examples: Examples, angle: float) -> Examples:
    images = transforms.rotate(examples.images, angle).astype(np.float32)
    return Examples(images, examples.labels)


def _shared_out(
    examples: Examples, auxiliary: int
) -> tuple[Examples, Examples, Examples]:
    """Disjoint parts of what nobody holds: the server's, for tests, held out."""
    least = auxiliary + 20
    if auxiliary < 1 or len(examples) < least:
        raise InputError(
            f"--auxiliary is {auxiliary}: expected 1 or more, and at least 20 fewer "
            f"than the {len(examples)} pictures that no client holds; correct it"
        )
    rest = np.arange(auxiliary, len(examples))
    return (
        examples.take(np.arange(auxiliary)),
        examples.take(rest[::2]),
        examples.take(rest[1::2]),
    )


def _check_heldout(heldout: Examples, held: np.ndarray, auxiliary: int) -> None:
    """Raises InputError unless templates can be made of every class that is held."""
    for label in held:
        count = len(heldout.of_class(label))
        if count < _LEAST_HELDOUT:
            raise InputError(
                f"--auxiliary is {auxiliary}: expected to leave {_LEAST_HELDOUT} or "
                f"more held-out pictures of each class of the victim, found {count} of "
                f"class {label}; lower it"
            )


def _cropped(source: Source) -> Source:
    """Pictures of 28x28 from 32x32; larger ones as they are."""
    if source.image_shape[0] != 32:
        return source

    def crop(examples: Examples | None) -> Examples | None:
        if examples is None:
            return None
        inner = slice(_MARGIN, -_MARGIN)
        images = np.ascontiguousarray(examples.images[:, inner, inner])
        return Examples(images, examples.labels)

    return dataclasses.replace(source, train=crop(source.train), test=crop(source.test))
