"""`reconstructions.npz`: what the attacker claims to have reconstructed."""

import dataclasses
import os
from zipfile import BadZipFile

import numpy as np

from tff_leak.errors import InputError
from tff_leak.runtime.atomic import atomic_write_bytes, npz_bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstructions:
    """Reconstructed images and what the attacker claims about them.

    Attributes:
      images: float32 `[n, H, W, C]` in [-1, 1].
      labels: int32 `[n]`, the class that the attacker claims.
      clients: int32 `[n]`, the client aimed at, -1 for none.
      round: the round after which they were sampled, at least 0.
    """

    images: np.ndarray
    labels: np.ndarray
    clients: np.ndarray
    round: int


def write_reconstructions(
    path: str | os.PathLike[str],
    images: np.ndarray,
    labels: np.ndarray,
    clients: np.ndarray,
    round: int,
) -> None:
    """Writes `reconstructions.npz` atomically; equal arrays give an equal file.

    Args:
      path: the file to replace.
      images: float32 `[n, H, W, C]`, n at least 1, finite, in [-1, 1].
      labels: int32 `[n]`, at least 0.
      clients: int32 `[n]`, at least -1.
      round: at least 0.

    Raises:
      InputError: if an array is not as described; nothing is written.
    """
    values = Reconstructions(images, labels, clients, int(round))
    _check(values, "reconstructions")
    arrays = dataclasses.asdict(values) | {"round": np.int32(round)}
    atomic_write_bytes(path, npz_bytes(arrays))


def read_reconstructions(path: str | os.PathLike[str]) -> Reconstructions:
    """Reads and checks a file written by `write_reconstructions`.

    Raises:
      InputError: if there is no such file, or it is not a reconstructions file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            values = Reconstructions(
                images=file["images"],
                labels=file["labels"],
                clients=file["clients"],
                round=int(file["round"]),
            )
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; expected the reconstructions.npz of a finished "
            "run; run the experiment first"
        ) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected a reconstructions.npz with "
            "images, labels, clients and round; run the experiment again"
        ) from None
    _check(values, str(path))
    return values


def _check(values: Reconstructions, where: str) -> None:
    images = values.images
    _check_array(images, np.float32, f"{where}: images")
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(
            f"{where}: images of shape {images.shape}; expected [n, H, W, C] with at "
            "least one image; sample at least one per target"
        )
    if not np.isfinite(images).all():
        raise InputError(
            f"{where}: {int((~np.isfinite(images)).sum())} pixels are not finite; "
            "expected numbers in [-1, 1]; the attack has diverged, lower its "
            "learning rate"
        )
    if images.min() < -1 or images.max() > 1:
        raise InputError(
            f"{where}: pixels from {images.min():g} to {images.max():g}; expected "
            "[-1, 1]; clip the images or scale them back"
        )
    for name, lowest in (("labels", 0), ("clients", -1)):
        array = getattr(values, name)
        _check_array(array, np.int32, f"{where}: {name}")
        if array.shape != images.shape[:1]:
            raise InputError(
                f"{where}: {name} of shape {array.shape}; expected one for each of "
                f"the {len(images)} images, shape {images.shape[:1]}"
            )
        if array.min() < lowest:
            raise InputError(
                f"{where}: {name} down to {array.min()}; expected at least {lowest}"
            )
    if values.round < 0:
        raise InputError(f"{where}: round {values.round}; expected at least 0")


def _check_array(array: np.ndarray, dtype: type[np.generic], where: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = getattr(array, "dtype", type(array).__name__)
        raise InputError(
            f"{where} are {found}; expected a numpy array of {np.dtype(dtype)}; "
            "convert it with astype"
        )
