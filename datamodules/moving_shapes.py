"""Moving shapes: generated activities, each a way in which one or two shapes move, on a ground, before a moving camera.

    clips = MovingShapes(frames=16, size=48)
    frames, label = clips.clip(7)                # uint8 (time, row, col, 3), a number in CLASSES

What a class is lies in the order of its frames alone wherever it can:

- `REVERSED`: classes that are each other's time reversal, camera and all. The frames of both are the same frames, so no
  average over frames tells them apart.
- `REORDERED`: classes that go there and back, and begin at the one end or at the other, the camera half a round ahead.
  Here pairs of successive frames are the same too, so no average over differences or optical flow tells them apart.

Shapes, textures and grounds come in two families: those to learn from, and unseen ones to test on.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from wavecast.datamodules.shapes import GROUNDS, SHAPES, TEXTURES, contrasting, sprite, texture

Pair = tuple[str, str]
SPRITE = 40
"""Pixels of a shape's picture, which is shown at half of that, about."""
GROUND = 1.3
"""A ground is so many times as large as what is shown of it."""
DIGITS_SHARE = 0.25
NOISE = 0.03
"""Largest deviation of the noise of a camera."""
STANDING_BY = 0.3
"""Chance of a second shape that does nothing, in scenes of one: their number is no hint."""


@dataclass(frozen=True)
class Track:
    """What a shape does: float64 arrays (time,).

    Attributes:
        place: complex, x to the right and y downwards; what is shown reaches from -1 to 1 in both.
        size: its radius.
        angle: in radians, clockwise.
        opacity: 0 to 1.
    """

    place: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray


def still(rng: np.random.Generator, t: np.ndarray) -> Track:
    """Draw a shape that stands anywhere."""
    place = complex(*rng.uniform(-0.5, 0.5, 2))
    return Track(
        np.full(len(t), place),
        np.full(len(t), rng.uniform(0.22, 0.38)),
        np.full(len(t), rng.uniform(0, 2 * np.pi)),
        np.ones(len(t)),
    )


def direction(rng: np.random.Generator) -> complex:
    """Draw a unit vector."""
    return complex(np.exp(2j * np.pi * rng.random()))


def rest(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Stand."""
    return [still(rng, t)]


def slide(rng: np.random.Generator, t: np.ndarray, along: complex) -> list[Track]:
    """Move in a direction, or nearly."""
    one = still(rng, t)
    reach = rng.uniform(0.28, 0.6)
    path = along * np.exp(1j * rng.uniform(-0.25, 0.25)) * reach * (2 * t - 1)
    return [replace(one, place=one.place * 0.6 + path)]


def spin(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Turn clockwise, about a point beside the middle."""
    one = still(rng, t)
    size, angle = one.size * 1.5, one.angle + t * rng.uniform(2.0, 4.2)
    beside = size * rng.uniform(0.25, 0.5) * np.exp(1j * (angle + rng.uniform(0, 2 * np.pi)))
    return [replace(one, place=one.place * 0.7 + beside, size=size, angle=angle)]


def grow(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Become larger."""
    one = still(rng, t)
    return [replace(one, size=one.size * np.exp(rng.uniform(0.55, 1.0) * (t - 0.5)))]


def orbit(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Go clockwise on a circle, without turning."""
    one = still(rng, t)
    turn = np.exp(1j * (rng.uniform(0, 2 * np.pi) + t * rng.uniform(2.6, 5.8)))
    return [replace(one, place=one.place * 0.5 + rng.uniform(0.3, 0.5) * turn, size=one.size * 0.85)]


def appear(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Come out of nothing."""
    one = still(rng, t)
    middle, width = rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.5)
    return [replace(one, opacity=np.clip((t - middle) / width + 0.5, 0, 1))]


def swing(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Go from the left to the right and back."""
    one = still(rng, t)
    path = rng.uniform(0.28, 0.55) * there_and_back(rng, t) * np.exp(1j * rng.uniform(-0.25, 0.25))
    return [replace(one, place=one.place * 0.6 + path)]


def swell(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Become larger, and as small as before."""
    one = still(rng, t)
    return [replace(one, size=one.size * np.exp(rng.uniform(0.28, 0.5) * there_and_back(rng, t)))]


def there_and_back(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Go from -1 to 1 and back in the time 1, evenly or as a pendulum: (time,)."""
    wave = -np.cos(2 * np.pi * t)
    return wave if rng.random() < 0.5 else 2 / np.pi * np.arcsin(np.clip(wave, -1, 1))


def bounce(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Bounce off the floor, two or three times, while moving on."""
    one = still(rng, t)
    height, floor, hops = rng.uniform(0.5, 0.9), rng.uniform(0.35, 0.7), rng.uniform(2.0, 3.2)
    phase = (rng.random() + hops * t) % 1
    x = one.place.real * 0.6 + rng.uniform(-0.35, 0.35) * (2 * t - 1)
    return [replace(one, place=x + 1j * (floor - height * 4 * phase * (1 - phase)), size=one.size * 0.8)]


def shake(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Tremble along a line."""
    one = still(rng, t)
    wave = np.sin(2 * np.pi * (rng.random() + t * rng.uniform(2.6, 4.4)))
    return [replace(one, place=one.place + direction(rng) * rng.uniform(0.08, 0.16) * wave)]


def pair(rng: np.random.Generator, t: np.ndarray, gap: np.ndarray) -> list[Track]:
    """Draw two shapes on a line, `gap` (time,) apart, 0 where they touch."""
    line, both = direction(rng), still(rng, t)
    sizes = both.size * rng.uniform(0.7, 1.0), both.size * rng.uniform(0.7, 1.0)
    apart, center = (0.75 * (sizes[0] + sizes[1]) + gap) * line, both.place * 0.4
    share = rng.uniform(0.35, 0.65)
    turned = both.angle + rng.uniform(0, 2 * np.pi)
    return [
        replace(both, place=center - share * apart, size=sizes[0]),
        replace(both, place=center + (1 - share) * apart, size=sizes[1], angle=turned),
    ]


def meet(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Two come together."""
    return pair(rng, t, rng.uniform(0.45, 0.9) * (1 - t))


def collide(rng: np.random.Generator, t: np.ndarray) -> list[Track]:
    """Two come together, hit, and go apart again."""
    hit = rng.uniform(0.4, 0.6)
    return pair(rng, t, rng.uniform(1.0, 1.6) * np.abs(t - hit))


Motion = Callable[[np.random.Generator, np.ndarray], list[Track]]
REVERSED: dict[Pair, Motion] = {
    ("move right", "move left"): functools.partial(slide, along=1),
    ("move down", "move up"): functools.partial(slide, along=1j),
    ("turn clockwise", "turn counterclockwise"): spin,
    ("circle clockwise", "circle counterclockwise"): orbit,
    ("grow", "shrink"): grow,
    ("appear", "vanish"): appear,
    ("meet", "part"): meet,
}
"""Classes whose second is the first backwards."""
REORDERED: dict[Pair, Motion] = {
    ("right and back", "left and back"): swing,
    ("grow and shrink", "shrink and grow"): swell,
}
"""Classes that go round and round, the second half a round ahead."""
ALONE: dict[str, Motion] = {"bounce": bounce, "collide": collide, "shake": shake, "rest": rest}
MOTIONS: dict[str, Motion] = {
    **{name: motion for pairs in (REVERSED, REORDERED) for names, motion in pairs.items() for name in names},
    **ALONE,
}
CLASSES = tuple(MOTIONS)
BACKWARDS = frozenset(second for _, second in REVERSED)
AHEAD = frozenset(second for _, second in REORDERED)
PAIRS: tuple[Pair, ...] = (*REVERSED, *REORDERED)


class MovingShapes:
    """Clips of moving shapes; clip k and its class are functions of (seed, k).

    Args:
        frames: of a clip.
        size: rows and columns of a clip.
        digits: uint8 (image, row, col), handwritten digits that are among the shapes; None: none are.
        unseen: take shapes, textures and grounds that are not for training.
        seed: another seed gives other clips.

    Raises:
        ValueError: a clip has fewer than two frames, or too small a picture.
    """

    def __init__(
        self, frames: int = 16, size: int = 48, digits: np.ndarray | None = None, unseen: bool = False, seed: int = 0
    ) -> None:
        if frames < 2 or size < 16:
            raise ValueError(f"{frames} frames of {size} x {size}\nhint: give 2 frames or more, of 16 x 16 or more")
        self.frames, self.size, self.digits, self.unseen, self.seed = frames, size, digits, unseen, seed

    def clip(self, k: int) -> tuple[np.ndarray, int]:
        """Give clip k: uint8 (time, row, col, 3), and the number of its class in CLASSES."""
        rng = np.random.default_rng([self.seed, k])
        label = int(rng.integers(len(CLASSES)))  # not in turn: batch normalization would see which classes are left
        return self.draw(CLASSES[label], rng), label

    def draw(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """Draw a clip of a class: uint8 (time, row, col, 3)."""
        order = np.arange(self.frames)
        if name in BACKWARDS:
            order = order[::-1]
        if name in AHEAD:
            order = np.roll(order, -(self.frames // 2))
        t = order / self.frames
        tracks = MOTIONS[name](rng, t)
        camera = draw_camera(rng, t)
        if len(tracks) == 1 and rng.random() < STANDING_BY:
            tracks.insert(0, still(rng, t))
        color, colors = contrasting(rng, len(tracks))
        ground = texture(rng, GROUNDS[self.unseen], round(GROUND * self.size), color)
        picture = warp(ground[None], camera[0][None] * GROUND, camera[1][None], self.size, "reflection")[0]
        sprites = np.stack([self._sprite(rng, color) for color in colors])
        ways = np.stack([camera[0] * track.size * np.exp(1j * track.angle) for track in tracks])
        places = np.stack([camera[0] * track.place + camera[1] for track in tracks])
        for track, shape in zip(tracks, warp(sprites, ways, places, self.size, "zeros"), strict=True):
            cover = shape[:, 3:] * torch.from_numpy(track.opacity.copy()).float()[:, None, None, None]
            picture = torch.lerp(picture, shape[:, :3], cover)
        noise = rng.uniform(0, NOISE) * rng.standard_normal((self.frames, 3, self.size, self.size), np.float32)
        picture = picture + torch.from_numpy(noise[order])
        frames: np.ndarray = picture.mul(255).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        return frames

    def _sprite(self, rng: np.random.Generator, color: np.ndarray) -> np.ndarray:
        """Draw a shape with its texture and opacity: float32 (4, row, col)."""
        digit = None
        if self.digits is not None and rng.random() < DIGITS_SHARE:
            digit = self.digits[rng.integers(len(self.digits))]
        return sprite(rng, SHAPES[self.unseen], TEXTURES[self.unseen], SPRITE, color, digit)


def draw_camera(rng: np.random.Generator, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw how the camera sways, and comes back in the time 1: complex factor and shift of the scene, (time,)."""
    sway = np.sin(2 * np.pi * (t + rng.random()))
    turn, zoom, pan = rng.normal(0, 0.03), rng.normal(0, 0.03), direction(rng) * rng.normal(0, 0.05)
    return np.exp((zoom + 1j * turn) * sway), pan * sway


def warp(pictures: np.ndarray, factors: np.ndarray, shifts: np.ndarray, size: int, beyond: str) -> torch.Tensor:
    """Show pictures turned, scaled and shifted.

    Args:
        pictures: float32 (picture, channel, row, col); their edges are at -1 and 1.
        factors: complex (picture, time); what their radius and angle become.
        shifts: complex (picture, time); where their middle is shown.
        size: rows and columns of what is shown.
        beyond: "zeros" or "reflection".

    Returns:
        float32 (picture, time, channel, size, size).
    """
    number, time = factors.shape
    inverse, place = 1 / factors, -shifts / factors
    rows = [inverse.real, -inverse.imag, place.real, inverse.imag, inverse.real, place.imag]
    theta = torch.from_numpy(np.stack(rows, -1).reshape(number * time, 2, 3).astype(np.float32))
    grid = F.affine_grid(theta, [number * time, 1, size, size], align_corners=False)
    source = torch.from_numpy(pictures)[:, None].expand(-1, time, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(source, grid, padding_mode=beyond, align_corners=False).unflatten(0, (number, time))
