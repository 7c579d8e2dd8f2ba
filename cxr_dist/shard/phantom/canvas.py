"""Drawing primitives of the phantom: from smooth outlines in unit coordinates to masks with soft edges, and to images.

Every structure adds to a map of density, so that structures behind the heart stay visible, as on a radiograph.
Coordinates are (x, y) in 0..1 from the upper left corner; widths are fractions of the side.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Mask = NDArray[np.float32]

_SUBPIXEL_BITS = 4
_STEPS = np.linspace(0, 1, 8, endpoint=False)[:, None]  # curve parameters between two control points
_CATMULL_ROM = (
    0.5
    * np.concatenate([_STEPS**0, _STEPS, _STEPS**2, _STEPS**3], axis=1)
    @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]])
)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """The position of the patient in front of the detector."""

    degrees: float
    zoom: float
    shift: tuple[float, float]

    def apply(self, points: Points) -> Points:
        """Rotate and zoom about the centre, then shift; points [n, 2]."""
        return np.asarray(points @ self._matrix + self._offset)

    @cached_property
    def _matrix(self) -> Points:
        turn = np.deg2rad(self.degrees)
        return self.zoom * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    @cached_property
    def _offset(self) -> Points:
        return np.asarray(0.5 + np.array(self.shift) - 0.5 * self._matrix.sum(axis=0))


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A square of `side` pixels, on which outlines are drawn in a given pose."""

    side: int
    pose: Pose

    def fill(self, outline: Points, soft: float) -> Mask:
        """Mask of the inside of a closed outline, 0..1 [side, side], with an edge blurred over `soft`."""
        mask = np.zeros((self.side, self.side), np.uint8)
        cv2.fillPoly(mask, [self._pixels(outline)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self._soft(mask, soft)

    def strokes(self, lines: list[Points], width: float, soft: float) -> Mask:
        """Mask of open lines of one width, 0..1 [side, side]; lines do not add up where they cross."""
        mask = np.zeros((self.side, self.side), np.uint8)
        thickness = max(1, round(width * self.side))
        pixels = np.split(self._pixels(np.concatenate(lines)), np.cumsum([len(line) for line in lines[:-1]]))
        cv2.polylines(mask, pixels, False, 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
        return self._soft(mask, soft)

    def blob(self, centre: tuple[float, float], radius: tuple[float, float], steepness: float = 2.0) -> Mask:
        """Mask of an elliptic shadow, 1 in its centre; a higher steepness gives a sharper edge."""
        posed = self.pose.apply(np.array([centre]))[0]
        axis = (np.arange(self.side, dtype=np.float32) + 0.5) / self.side
        x, y = (axis - posed[0]) / radius[0], (axis - posed[1]) / radius[1]
        distance = (x[None, :] ** 2 + y[:, None] ** 2).astype(np.float32)
        return np.asarray(np.exp(-(distance ** np.float32(steepness / 2))), np.float32)

    def clouds(self, rng: np.random.Generator, grain: float) -> Mask:
        """Smooth noise [side, side] of mean 0 and standard deviation about 1, with structures about `grain` wide."""
        cells = max(2, round(1 / grain))
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        return np.asarray(cv2.resize(coarse, (self.side, self.side), interpolation=cv2.INTER_CUBIC), np.float32)

    def _soft(self, mask: NDArray[np.uint8], soft: float) -> Mask:
        if soft * self.side > 0.5:  # below half a pixel, anti-aliasing suffices
            mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), soft * self.side), np.uint8)
        return mask * np.float32(1 / 255)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        return np.asarray(np.round(self.pose.apply(points) * self.side * 2**_SUBPIXEL_BITS), np.int32)


def smooth(points: list[tuple[float, float]], closed: bool) -> Points:
    """Catmull-Rom spline through control points, [n, 2] (Catmull and Rom 1974)."""
    p = np.array(points)
    ends = (p[-1:], p[:2]) if closed else (p[:1], p[-1:])
    q = np.concatenate([ends[0], p, ends[1]])
    windows = np.stack([q[i : len(q) - 3 + i] for i in range(4)])
    flat = np.tensordot(windows, _CATMULL_ROM, axes=(0, 1)).swapaxes(1, 2).reshape(-1, 2)
    return flat if closed else np.concatenate([flat, p[-1:]])


def expose(density: Mask, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn a density map [side, side] into an image, 0 black to 255 white, with random contrast and detector noise."""
    image = 1 - np.exp(-density * rng.uniform(0.85, 1.2))
    image = rng.uniform(0.0, 0.05) + image * rng.uniform(0.92, 1.08)
    image = np.clip(image, 0, 1) ** rng.uniform(0.85, 1.25)
    image += rng.standard_normal(density.shape, np.float32) * rng.uniform(0.008, 0.022)
    return np.asarray(np.clip(np.round(image * 255), 0, 255), np.uint8)
