"""Pictures of shapes and textures for generated scenes, in two families: `[False]` to learn from, `[True]` unseen."""

from collections.abc import Callable

import numpy as np

Outline = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
Pattern = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


def polygon(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw a polygon of three to six equal sides."""
    sides = rng.integers(3, 7)
    angle = np.arctan2(y, x) % (2 * np.pi / sides) - np.pi / sides
    return 0.95 * np.cos(np.pi / sides) - np.hypot(x, y) * np.cos(angle)


def rectangle(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw a rectangle that is no square."""
    return np.minimum(0.85 - np.abs(x), 0.85 * rng.uniform(0.4, 0.75) - np.abs(y))


def ellipse(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw an ellipse that is no circle."""
    flat = rng.uniform(0.4, 0.7)
    return (0.95 - np.hypot(x, y / flat)) * flat


def blob(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw an irregular round shape."""
    angle = np.arctan2(y, x)
    waves = sum(rng.uniform(-0.22, 0.22) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (1, 2, 3))
    return 0.68 * (1 + waves) - np.hypot(x, y)


def star(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw a star of four to six points."""
    points, inner = rng.integers(4, 7), rng.uniform(0.4, 0.55)
    angle = np.arctan2(y, x) % (2 * np.pi / points)
    place = np.hypot(x, y) * np.exp(1j * np.minimum(angle, 2 * np.pi / points - angle)) - 0.95
    side = inner * np.exp(1j * np.pi / points) - 0.95  # from a point to the notch beside it
    distance: np.ndarray = (np.conj(side) * place).imag / abs(side)
    return distance


def cross(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw a cross of two bars."""
    width, length = rng.uniform(0.22, 0.36), rng.uniform(0.6, 0.9)
    upright = np.minimum(width - np.abs(x), 0.9 - np.abs(y))
    across = np.minimum(length - np.abs(x), width - np.abs(y - rng.uniform(-0.4, 0.4)))
    return np.maximum(upright, across)


def crescent(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw a disk with another cut off."""
    return np.minimum(0.9 - np.hypot(x, y), np.hypot(x - rng.uniform(0.4, 0.7), y) - 0.7)


def flower(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw a flower of three to five petals."""
    return 0.68 + 0.25 * np.cos(rng.integers(3, 6) * np.arctan2(y, x)) - np.hypot(x, y)


def plain(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint nothing."""
    return np.zeros_like(x)


def gradient(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint from dark to light."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.cos(angle) * x + np.sin(angle) * y


def stripes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint soft stripes."""
    return np.sin(rng.uniform(5, 11) * gradient(rng, x, y) + rng.uniform(0, 6.3))


def clouds(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint smooth noise: waves of all directions."""
    waves = [np.sin(rng.uniform(-7, 7) * x + rng.uniform(-7, 7) * y + rng.uniform(0, 6.3)) for _ in range(4)]
    return np.mean(waves, 0) * 1.6


def bars(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint stripes with hard edges."""
    return np.clip(rng.uniform(3, 8) * stripes(rng, x, y), -1, 1)


def patches(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint patches of random brightness, large or small, with soft or hard edges."""
    cells = int(rng.integers(4, 25))
    place = np.linspace(0, cells - 1, len(x))
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(cells)), 0, 1)  # linear interpolation
    return np.clip(rng.uniform(1, 4) * (weights @ rng.uniform(-1, 1, (cells, cells)) @ weights.T), -1, 1)


def checks(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint a chessboard, not upright."""
    turn = (x + 1j * y) * np.exp(1j * rng.uniform(0, 1.6)) * rng.uniform(4, 8)
    return np.clip(4 * np.sin(turn.real) * np.sin(turn.imag), -1, 1)


def rings(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint rings around a point."""
    return np.sin(rng.uniform(6, 11) * np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1)))


def grain(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Paint noise, every pixel for itself and its neighbors a little."""
    noise = rng.uniform(-1.4, 1.4, x.shape)
    return (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 2


SHAPES: dict[bool, tuple[Outline, ...]] = {
    False: (polygon, rectangle, ellipse, blob),
    True: (star, cross, crescent, flower),
}
TEXTURES: dict[bool, tuple[Pattern, ...]] = {False: (plain, gradient, stripes), True: (checks, rings)}
GROUNDS: dict[bool, tuple[Pattern, ...]] = {
    False: (plain, gradient, clouds, stripes, bars, patches),
    True: (checks, rings, grain),
}


def contrasting(rng: np.random.Generator, shapes: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw the color of a ground, and colors of shapes that stand out from it: float32 (3,) each, 0 to 1."""
    ground = rng.uniform(0.1, 0.9, 3)
    colors = []
    for _ in range(shapes):
        color = rng.uniform(0, 1, 3)
        while np.abs(color - ground).max() < 0.4:
            color = rng.uniform(0, 1, 3)
        colors.append(color.astype(np.float32))
    return ground.astype(np.float32), colors


def texture(rng: np.random.Generator, patterns: tuple[Pattern, ...], size: int, color: np.ndarray) -> np.ndarray:
    """Paint a square in a color with a pattern: float32 (3, size, size), 0 to 1."""
    x, y = _axes(size)
    pattern = patterns[rng.integers(len(patterns))](rng, x, y)
    strength = rng.uniform(0.05, 0.18) * rng.uniform(0.4, 1.0, 3)
    return np.clip(color[:, None, None] + strength[:, None, None] * pattern, 0, 1).astype(np.float32)


def sprite(
    rng: np.random.Generator,
    outlines: tuple[Outline, ...],
    patterns: tuple[Pattern, ...],
    size: int,
    color: np.ndarray,
    digit: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a shape on nothing.

    Args:
        rng: what is drawn.
        outlines: shapes to choose from: positive inside, distances from the edge or about.
        patterns: of its texture.
        size: rows and columns.
        color: (3,), 0 to 1.
        digit: uint8 (row, col) in the place of a shape.

    Returns:
        float32 (4, size, size): red, green, blue and opacity, 0 to 1.
    """
    painted = texture(rng, patterns, size, color)
    if digit is None:
        x, y = _axes(size)
        flat = rng.uniform(0.55, 1.0)  # so that it is seen to turn
        inside = outlines[rng.integers(len(outlines))](rng, x, y / flat) * flat
        cover = np.clip(inside * size / 2 + 0.5, 0, 1)
    else:
        nearest = np.arange(size) * len(digit) // size
        cover = np.minimum(1, digit[nearest][:, nearest] / 200)
    cover[[0, -1]] = cover[:, [0, -1]] = 0  # beyond the picture there is nothing
    return np.concatenate([painted, cover[None]]).astype(np.float32)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Give x and y of the pixels of a square from -1 to 1: (size, size)."""
    middle = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(middle, middle)
    return x, y
