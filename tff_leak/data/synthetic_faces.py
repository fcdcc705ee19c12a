"""Drawn grey faces with identity, expression and glasses: a stand-in for real ones.

The faces pipeline runs and is tested on these pictures without a download. They are
synthetic and must be called so wherever they are shown. Each person has a fixed
anatomy (skin, hair, shape of the head, eyes, brows, nose, mouth, beard); pose, light,
expression and glasses change from picture to picture.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from tff_leak import errors
from tff_leak.data import transforms

SIZE = 64
EXPRESSIONS = ("neutral", "smile", "surprise", "eyes closed", "frown")

# Pictures are drawn four times as large and averaged, which smooths their edges.
_SUPERSAMPLING = 4
_CANVAS = SIZE * _SUPERSAMPLING
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """Synthetic pictures with what is known about each, ordered by person.

    Attributes:
        images: float32 `[n, 64, 64, 1]` in [-1, 1].
        identities: int32 `[n]`, the person.
        expressions: int32 `[n]`, an index into `EXPRESSIONS`.
        glasses: bool `[n]`, worn in half of each person's pictures.
    """

    images: np.ndarray
    identities: np.ndarray
    expressions: np.ndarray
    glasses: np.ndarray


def generate(*, people: int = 40, pictures: int = 10, seed: int = 0) -> Faces:
    """Draws `people * pictures` faces.

    A person depends on the seed and the person's number only, a picture on these and
    its own number: more people or pictures leave the others as they are, except that
    who wears glasses is drawn anew for another number of pictures.

    Raises:
        errors.InputError: a number is below 1, or the seed below 0.
    """
    if people < 1 or pictures < 1 or seed < 0:
        raise errors.InputError(
            f"people={people}, pictures={pictures}, seed={seed}: expected at least 1 "
            "person, 1 picture and a seed of at least 0; change these numbers"
        )
    images, expressions, glasses = [], [], []
    for identity in range(people):
        person = _draw_person(np.random.default_rng([seed, identity, 0]))
        plan = np.random.default_rng([seed, identity, 1, pictures])
        wears = plan.permutation(np.arange(pictures) < pictures // 2)
        for picture in range(pictures):
            view = _draw_view(np.random.default_rng([seed, identity, 2, picture]))
            expression = (identity + picture) % len(EXPRESSIONS)
            images.append(_render(person, view, expression, bool(wears[picture])))
            expressions.append(expression)
        glasses.append(wears)
    return Faces(
        images=np.stack(images),
        identities=np.repeat(np.arange(people, dtype=np.int32), pictures),
        expressions=np.asarray(expressions, np.int32),
        glasses=np.concatenate(glasses),
    )


@dataclasses.dataclass(frozen=True)
class _Person:
    """Anatomy. Lengths in widths of the picture, tones in grey levels 0..255."""

    skin: float
    hair: float
    clothes: float
    background: float
    eye_tone: float
    width: float
    height: float
    jaw: float
    hair_style: int  # Index into _HAIR_STYLES.
    hair_volume: float
    hairline: float
    parting: float
    ears: float
    eye_gap: float
    eye_height: float
    eye_size: float
    brow_weight: float
    brow_slope: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lips: float
    beard: float
    moustache: bool
    neck: float
    frame_weight: float
    frame_round: float


_HAIR_STYLES = ("short", "long", "receding", "voluminous", "bob")


def _draw_person(rng: np.random.Generator) -> _Person:
    uniform = rng.uniform
    style = int(rng.integers(len(_HAIR_STYLES)))
    bearded = _HAIR_STYLES[style] in ("short", "receding") and uniform() < 0.45
    skin = uniform(95, 215)
    return _Person(
        skin=skin,
        hair=uniform(12, 60) if uniform() < 0.7 else uniform(80, min(165, skin)),
        clothes=uniform(15, 210),
        background=uniform(35, 100),
        eye_tone=uniform(10, 75),
        width=uniform(0.215, 0.275),
        height=uniform(0.31, 0.36),
        jaw=uniform(-0.25, 0.25),
        hair_style=style,
        hair_volume=uniform(0.02, 0.06),
        hairline=uniform(0.10, 0.18),
        parting=uniform(-0.8, 0.8),
        ears=uniform(0.025, 0.045),
        eye_gap=uniform(0.088, 0.118),
        eye_height=uniform(-0.055, -0.015),
        eye_size=uniform(0.034, 0.048),
        brow_weight=uniform(0.010, 0.026),
        brow_slope=uniform(-0.012, 0.010),
        nose_length=uniform(0.10, 0.15),
        nose_width=uniform(0.034, 0.058),
        mouth_width=uniform(0.065, 0.105),
        mouth_height=uniform(0.175, 0.205),
        lips=uniform(0.011, 0.024),
        beard=uniform(0.25, 0.75) if bearded else 0.0,
        moustache=bearded and uniform() < 0.6,
        neck=uniform(0.10, 0.155),
        frame_weight=uniform(0.006, 0.013),
        frame_round=uniform(1.8, 5.0),
    )


@dataclasses.dataclass(frozen=True)
class _View:
    """Pose of the head and light of one picture."""

    shift: tuple[float, float]
    scale: float
    tilt: float  # Radians.
    yaw: float  # How far the features move sideways on the head.
    light: tuple[float, float]  # Change of brightness across the picture.
    exposure: float
    noise_seed: int


def _draw_view(rng: np.random.Generator) -> _View:
    return _View(
        shift=tuple(rng.uniform(-0.012, 0.012, 2)),
        scale=rng.uniform(1.15, 1.22),
        tilt=rng.uniform(-0.06, 0.06),
        yaw=rng.uniform(-0.028, 0.028),
        light=(rng.uniform(-0.22, 0.22), rng.uniform(-0.12, 0.06)),
        exposure=rng.uniform(0.95, 1.05),
        noise_seed=int(rng.integers(2**31)),
    )


class _Pencil:
    """Draws filled shapes, given in head coordinates, on a grey canvas.

    The origin lies between the ears, x points right and y down; the picture is one
    unit wide.
    """

    def __init__(self, view: _View, background: float):
        self.canvas = PIL.Image.new("L", (_CANVAS, _CANVAS), round(background))
        self._draw = PIL.ImageDraw.Draw(self.canvas)
        cosine, sine = np.cos(view.tilt), np.sin(view.tilt)
        self._matrix = view.scale * np.array([[cosine, sine], [-sine, cosine]])
        self._centre = np.array([0.5, 0.50]) + view.shift

    def shape(self, points, tone: float, *, posed: bool = True) -> None:
        """Fills the polygon; one that is not `posed` does not move with the head."""
        points = np.asarray(points, np.float64)
        placed = points @ self._matrix + self._centre if posed else points + 0.5
        self._draw.polygon(
            [tuple(point) for point in placed * _CANVAS],
            fill=int(np.clip(round(tone), 0, 255)),
        )

    def ellipse(self, x, y, rx, ry, tone: float, power: float = 2.0) -> None:
        """Fills a superellipse: 2 is an ellipse, larger powers near a rectangle."""
        self.shape(_ellipse(x, y, rx, ry, power), tone)

    def soften(self, radius: float) -> None:
        """Blurs what was drawn so far by `radius` pixels of the final picture."""
        blur = PIL.ImageFilter.GaussianBlur(radius * _SUPERSAMPLING)
        self.canvas = self.canvas.filter(blur)
        self._draw = PIL.ImageDraw.Draw(self.canvas)


def _ellipse(x, y, rx, ry, power: float = 2.0) -> np.ndarray:
    cosine, sine = np.cos(_ANGLES), np.sin(_ANGLES)
    return np.stack(
        [
            x + rx * np.sign(cosine) * np.abs(cosine) ** (2.0 / power),
            y + ry * np.sign(sine) * np.abs(sine) ** (2.0 / power),
        ],
        axis=1,
    )


def _stroke(points, width: float) -> np.ndarray:
    """The outline of a line of `width` through `points`, tapered at its ends."""
    points = np.asarray(points, np.float64)
    along = np.gradient(points, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    taper = 0.35 + 0.65 * np.sin(np.linspace(0.15, np.pi - 0.15, len(points)))
    half = 0.5 * width * taper[:, np.newaxis] * normal
    return np.concatenate([points + half, (points - half)[::-1]])


def _head_outline(person: _Person, grow: float = 0.0) -> np.ndarray:
    """An ellipse whose lower half is drawn in or out by the jaw."""
    cosine, sine = np.cos(_ANGLES), np.sin(_ANGLES)
    lower = np.clip(sine, 0.0, None)
    half_width = (person.width + grow) * (1.0 + person.jaw * lower * (1.0 - lower))
    return np.stack([half_width * cosine, (person.height + grow) * sine], axis=1)


def _render(person: _Person, view: _View, expression: int, glasses: bool) -> np.ndarray:
    """One picture, float32 `[64, 64, 1]` in [-1, 1]."""
    pencil = _Pencil(view, person.background)
    _draw_body(pencil, person)
    _draw_head(pencil, person)
    _draw_hair(pencil, person)
    pencil.soften(0.35)
    mood = EXPRESSIONS[expression]
    _draw_nose(pencil, person, view)
    _draw_mouth(pencil, person, view, mood)
    _draw_eyes(pencil, person, view, mood)
    if glasses:
        _draw_glasses(pencil, person, view)
    pencil.soften(0.25)
    small = pencil.canvas.reduce(_SUPERSAMPLING)
    return _light(np.asarray(small, np.float32), view)[:, :, np.newaxis]


def _draw_body(pencil: _Pencil, person: _Person) -> None:
    if _HAIR_STYLES[person.hair_style] == "long":
        reach = person.width + person.hair_volume
        pencil.ellipse(0.0, 0.12, reach, 0.40, person.hair, 3.0)
    shoulders = _ellipse(0.0, 0.59, 0.46, 0.20, 2.4)
    pencil.shape(shoulders, person.clothes, posed=False)
    neck = person.neck
    pencil.shape(
        [(-neck, 0.15), (neck, 0.15), (neck + 0.03, 0.42), (-neck - 0.03, 0.42)],
        0.72 * person.skin,
    )
    pencil.ellipse(0.0, 0.41, neck + 0.03, 0.04, 0.72 * person.skin)


def _draw_head(pencil: _Pencil, person: _Person) -> None:
    for side in (-1, 1):
        pencil.ellipse(side * person.width, 0.0, person.ears, 0.07, 0.86 * person.skin)
    # Rings of rising brightness round the head off.
    outline = _head_outline(person)
    for size in np.linspace(1.0, 0.55, 10):
        shade = 1.0 - 0.22 * ((size - 0.55) / 0.45) ** 2
        tone = shade * person.skin
        pencil.shape(size * outline, tone)
    if person.beard:
        tone = (1 - person.beard) * person.skin + person.beard * person.hair
        lower = outline[outline[:, 1] > 0.06]
        across = np.linspace(lower[-1, 0], lower[0, 0], 15)
        upper = 0.13 - 0.07 * (across / person.width) ** 4
        upper = np.stack([across, upper], axis=1)
        pencil.shape(np.concatenate([lower, upper]), tone)
    for side in (-1, 1):  # Cheeks.
        pencil.ellipse(side * 0.115, 0.08, 0.05, 0.035, 1.06 * person.skin)


def _draw_hair(pencil: _Pencil, person: _Person) -> None:
    """The cap of hair: everything of a grown outline above the hairline."""
    style = _HAIR_STYLES[person.hair_style]
    volume = person.hair_volume + (0.035 if style == "voluminous" else 0.0)
    rim = {"short": -0.06, "receding": -0.02, "voluminous": 0.02}.get(style, 0.10)
    outer = _head_outline(person, volume)
    outer = outer[outer[:, 1] < rim]
    outer = outer[np.argsort(np.arctan2(outer[:, 0], -outer[:, 1]))]
    top = -person.height + (0.05 if style == "receding" else person.hairline)
    across = np.linspace(1.0, -1.0, 25)
    # The hairline falls to the temples and rises towards the parting.
    front = top + (rim - top) * np.abs(across) ** (4.0 if style == "receding" else 6.0)
    front -= 0.045 * np.exp(-(((across - person.parting) / 0.35) ** 2))
    inner = np.stack([across * 0.88 * person.width, front], axis=1)
    pencil.shape(np.concatenate([outer, inner]), person.hair)
    shine = _stroke(
        [
            (x * person.width, -person.height * 0.93 + 0.05 * x * x)
            for x in across[6:19]
        ],
        0.03,
    )
    if style != "receding":
        pencil.shape(shine, person.hair + 22)


def _draw_eyes(pencil: _Pencil, person: _Person, view: _View, mood: str) -> None:
    opening = {"surprise": 1.25, "smile": 0.8, "eyes closed": 0.0}.get(mood, 1.0)
    raised = {"surprise": 0.022, "frown": -0.010}.get(mood, 0.0)
    for side in (-1, 1):
        x = side * person.eye_gap + view.yaw
        y, size = person.eye_height, person.eye_size
        pencil.ellipse(x, y, 1.35 * size, 0.85 * size, 0.82 * person.skin)
        if opening:
            pencil.ellipse(x, y, size, 0.5 * size * opening, person.skin * 0.4 + 140)
            gaze = x + 0.4 * view.yaw
            pencil.ellipse(gaze, y, 0.5 * size, 0.5 * size, person.eye_tone)
        lid = y - 0.45 * size * opening + (0.25 * size if not opening else 0.0)
        sag = 0.35 * size if opening else -0.3 * size
        t = np.linspace(-1.0, 1.0, 9)
        line = np.stack([x + 1.1 * size * t, lid + sag * t * t], axis=1)
        pencil.shape(_stroke(line, 0.011), 0.3 * person.skin)
        slope = person.brow_slope + (0.020 if mood == "frown" else 0.0)
        # -side * t runs from -1 at the temple to 1 at the nose.
        brow = y - 1.55 * size - raised - 0.012 * (1 - t * t) - slope * side * t
        line = np.stack([x + 1.5 * size * t, brow], axis=1)
        pencil.shape(_stroke(line, person.brow_weight), 0.75 * person.hair)


def _draw_nose(pencil: _Pencil, person: _Person, view: _View) -> None:
    x, width = 1.4 * view.yaw, person.nose_width
    top, tip = person.eye_height, person.eye_height + person.nose_length
    bridge = [(view.yaw, top), (x + 0.4 * width, tip), (x - 0.4 * width, tip)]
    pencil.shape(bridge, 1.05 * person.skin)
    shadow = np.sign(view.yaw or 1.0)
    side = [(view.yaw, top), (x - 0.4 * shadow * width, tip), (x - shadow * width, tip)]
    pencil.shape(side, 0.84 * person.skin)
    pencil.ellipse(x, tip, width, 0.45 * width, 0.88 * person.skin)
    pencil.ellipse(x, tip - 0.012, 0.6 * width, 0.4 * width, 1.07 * person.skin)
    for nostril in (-1, 1):
        pencil.ellipse(
            x + 0.5 * nostril * width, tip + 0.008, 0.009, 0.006, 0.4 * person.skin
        )


def _draw_mouth(pencil: _Pencil, person: _Person, view: _View, mood: str) -> None:
    x, y = 1.1 * view.yaw, person.mouth_height
    width = person.mouth_width * {"smile": 1.25, "surprise": 0.75}.get(mood, 1.0)
    curve = {"smile": 0.030, "frown": -0.018}.get(mood, 0.003)
    gap = {"surprise": 0.030, "smile": 0.010}.get(mood, 0.0)
    t = np.linspace(-1.0, 1.0, 13)
    corners = y + curve * (0.5 - t * t)
    along = x + width * t
    arch = np.sqrt(1 - t * t)
    lip_tone = 0.68 * person.skin
    upper = np.stack([along, corners - (gap + person.lips) * arch], axis=1)
    lower = np.stack([along, corners + (gap + 1.3 * person.lips) * arch], axis=1)
    pencil.shape(np.concatenate([upper, lower[::-1]]), lip_tone)
    inside = np.stack([along, corners - gap * arch], axis=1)
    below = np.stack([along, corners + gap * arch], axis=1)
    if gap:
        tone = 225.0 if mood == "smile" else 30.0  # Teeth or an open mouth.
        pencil.shape(np.concatenate([inside, below[::-1]]), tone)
    else:
        pencil.shape(_stroke(inside, 0.010), 0.35 * person.skin)
    if person.moustache:
        hair = np.stack([along * 1.05, corners - gap - person.lips - 0.014], axis=1)
        pencil.shape(_stroke(hair, 0.030), person.hair)


def _draw_glasses(pencil: _Pencil, person: _Person, view: _View) -> None:
    """Frames as rings: outline and inner outline joined into one polygon."""
    radius, weight = 1.75 * person.eye_size, person.frame_weight
    y = person.eye_height + 0.006
    for side in (-1, 1):
        x = side * person.eye_gap + view.yaw
        ring = functools.partial(_ellipse, x, y, power=person.frame_round)
        outer = ring(radius, 0.82 * radius)
        inner = ring(radius - 1.6 * weight, 0.82 * radius - 1.6 * weight)
        closed = [np.concatenate([part, part[:1]]) for part in (outer, inner)]
        pencil.shape(np.concatenate([closed[0], closed[1][::-1]]), 18.0)
        ear = [(x + side * radius, y - 0.01), (side * person.width, y - 0.02)]
        pencil.shape(_stroke(ear, 1.5 * weight), 18.0)
    bridge = [
        (view.yaw - person.eye_gap + radius, y - 0.01),
        (view.yaw, y - 0.02),
        (view.yaw + person.eye_gap - radius, y - 0.01),
    ]
    pencil.shape(_stroke(bridge, 2.0 * weight), 18.0)


def _light(levels: np.ndarray, view: _View) -> np.ndarray:
    """Light from one side, exposure and the grain of a film; [64, 64] in [-1, 1]."""
    ramp = np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)
    slope = view.light[0] * ramp[np.newaxis, :] + view.light[1] * ramp[:, np.newaxis]
    grain = np.random.default_rng(view.noise_seed).normal(0.0, 2.0, levels.shape)
    lit = levels * view.exposure * (1.0 + slope) + grain
    return transforms.to_unit_range(np.clip(np.rint(lit), 0, 255).astype(np.uint8))
