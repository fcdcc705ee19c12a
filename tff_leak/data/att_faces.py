"""The AT&T (ORL) "Database of Faces" as a TFDS data set of 64x64 grey pictures.

400 pictures of 40 people, ten of each, taken between 1992 and 1994 by AT&T
Laboratories Cambridge (F. Samaria and A. Harter, "Parameterisation of a stochastic
model for human face identification", 1994). Nothing is downloaded: the archive or
its folder has to lie in TFDS's manual directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pathlib
import re
import tempfile
import zipfile

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from tff_leak import errors
from tff_leak.data import transforms

PEOPLE = 40
PICTURES = 10
SIZE = 64
SOURCE_PAGE = "https://cam-orl.co.uk/facedatabase.html"

_MEMBER = re.compile(r"(?:^|/)s(\d+)/(\d+)\.pgm$")


def prepare(data_dir: pathlib.Path) -> pathlib.Path:
    """Returns the directory of the prepared data set, preparing it when needed.

    It is written to `data_dir` or, where that is read-only, to
    `$XDG_CACHE_HOME/tff_leak` (default `~/.cache/tff_leak`), under a name derived
    from the manual directory. The files are written beside their place and renamed,
    so processes that prepare at the same time do not disturb each other.

    Raises:
        errors.InputError: the pictures are missing, incomplete or unreadable, or
            there is nowhere to write.
    """
    version = pathlib.Path(AttFaces.name, str(AttFaces.VERSION))
    manual_dir = data_dir / "downloads" / "manual"
    cache = _cache_root(manual_dir)
    for prepared in (data_dir / version, cache / version):
        if (prepared / "dataset_info.json").is_file():
            return prepared
    read_pictures(manual_dir)  # Speaks of missing or broken pictures in one line.
    root = data_dir if _writable(data_dir) else cache
    try:
        _prepare_into(root, manual_dir, version)
    except OSError as error:
        reason = error.strerror or error
        raise errors.InputError(
            f"cannot prepare {AttFaces.name} under {root} ({reason}): expected "
            "a place to write to; set XDG_CACHE_HOME to a directory that has room"
        ) from error
    return root / version


def read_pictures(manual_dir: pathlib.Path) -> dict[tuple[int, int], np.ndarray]:
    """Reads the folder `att_faces/` or else the archive `att_faces.zip`.

    Returns:
        For each (person 1..40, picture 1..10), in this order, uint8 `[64, 64, 1]`.

    Raises:
        errors.InputError: neither is there, a person or picture is missing, or a
            picture cannot be read.
    """
    folder, archive = manual_dir / "att_faces", manual_dir / "att_faces.zip"
    if folder.is_dir():
        place, contents = folder, _folder_contents(folder)
    elif archive.is_file():
        place, contents = archive, _archive_contents(archive)
    else:
        raise errors.InputError(
            f"no AT&T faces under {manual_dir}: expected the archive att_faces.zip or "
            "the folder att_faces/ with s1..s40/1..10.pgm; get the Database of Faces "
            f"of AT&T Laboratories Cambridge from {SOURCE_PAGE} and put it there"
        )
    expected = [(p, k) for p in range(1, PEOPLE + 1) for k in range(1, PICTURES + 1)]
    if set(contents) != set(expected):
        found = len(contents)
        differing = min(set(contents) ^ set(expected))
        state = "unexpected" if differing in contents else "missing"
        raise errors.InputError(
            f"{place} holds {found} pictures, s{differing[0]}/{differing[1]}.pgm is "
            f"{state}: expected s1..s{PEOPLE}/1..{PICTURES}.pgm; unpack the archive "
            f"of {SOURCE_PAGE} anew"
        )
    return {key: _decode(place, key, contents[key]) for key in expected}


def _folder_contents(folder: pathlib.Path) -> dict[tuple[int, int], bytes]:
    matches = {path: _MEMBER.search(path.as_posix()) for path in folder.rglob("*.pgm")}
    try:
        return {
            (int(match[1]), int(match[2])): path.read_bytes()
            for path, match in matches.items()
            if match
        }
    except OSError as error:
        raise errors.InputError(
            f"cannot read {error.filename} ({error.strerror}): expected a PGM picture; "
            f"unpack the archive of {SOURCE_PAGE} anew"
        ) from error


def _archive_contents(archive: pathlib.Path) -> dict[tuple[int, int], bytes]:
    try:
        with zipfile.ZipFile(archive) as opened:
            matches = {name: _MEMBER.search(name) for name in opened.namelist()}
            return {
                (int(match[1]), int(match[2])): opened.read(name)
                for name, match in matches.items()
                if match
            }
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise errors.InputError(
            f"cannot read {archive} ({error}): expected the whole zip archive; get it "
            f"anew from {SOURCE_PAGE}"
        ) from error


def _decode(place: pathlib.Path, key: tuple[int, int], content: bytes) -> np.ndarray:
    """Decodes one PGM file and resizes it to uint8 `[64, 64, 1]`."""
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PPM"]) as picture:
            pixels = np.asarray(picture.convert("L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise errors.InputError(
            f"{place}: cannot read s{key[0]}/{key[1]}.pgm: expected a whole PGM "
            f"picture; unpack the archive of {SOURCE_PAGE} anew"
        ) from error
    image = transforms.to_unit_range(pixels[np.newaxis, :, :, np.newaxis])
    return transforms.to_uint8(transforms.resize_to(image, SIZE))[0]


class AttFaces(tfds.core.GeneratorBasedBuilder):
    """TFDS builder `att_faces`: one split `train`, ordered by person and picture."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put att_faces.zip, or the folder att_faces/ unpacked from it, into the "
        f"manual directory. Source: {SOURCE_PAGE}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        people = [f"s{person}" for person in range(1, PEOPLE + 1)]
        return _LocalInfo(
            builder=self,
            description="AT&T Database of Faces, resized to 64x64.",
            homepage=SOURCE_PAGE,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 1)),
                    "label": tfds.features.ClassLabel(names=people),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        pictures = read_pictures(pathlib.Path(dl_manager.manual_dir))
        return {"train": self._generate_examples(pictures)}

    def _generate_examples(self, pictures):
        for (person, picture), image in pictures.items():
            key = (person - 1) * PICTURES + picture - 1
            yield key, {"image": image, "label": f"s{person}"}


class _LocalInfo(tfds.core.DatasetInfo):
    """Metadata of a data set that no server knows."""

    def initialize_from_bucket(self) -> None:
        """Does nothing, where TFDS would ask its storage bucket over the network."""


def _prepare_into(
    root: pathlib.Path, manual_dir: pathlib.Path, version: pathlib.Path
) -> None:
    """Builds in a scratch directory under `root` and renames the result to its place.

    TFDS prints its progress to stdout and stderr, which are therefore redirected.
    """
    (root / version).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".att_faces.", dir=root) as scratch:
        builder = AttFaces(data_dir=scratch)
        config = tfds.download.DownloadConfig(
            manual_dir=manual_dir, try_download_gcs=False
        )
        silence = io.StringIO()
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            builder.download_and_prepare(
                download_dir=os.path.join(scratch, "downloads"), download_config=config
            )
        try:
            os.rename(builder.data_dir, root / version)
        except OSError:
            # Another process was faster: its files are the same as these.
            if not (root / version / "dataset_info.json").is_file():
                raise


def _cache_root(manual_dir: pathlib.Path) -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    place = hashlib.sha256(os.fsencode(manual_dir.resolve())).hexdigest()[:16]
    return pathlib.Path(home) / "tff_leak" / place


def _writable(directory: pathlib.Path) -> bool:
    """Whether one may write there; a mode without any write bit binds root as well."""
    return os.access(directory, os.W_OK) and bool(directory.stat().st_mode & 0o222)
