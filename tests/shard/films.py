"""Films with plenty of detail, drawn from noise, and what happens to a film on its way into a second collection."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Film = NDArray[np.uint8]


def texture(seed: int, height: int = 160, width: int = 144) -> Film:
    """Noise with structures of many sizes, the coarse ones strong, as in any picture."""
    rng = np.random.default_rng(seed)
    film = np.zeros((height, width), np.float32)
    for cells in (3, 6, 12, 24, 48):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        film += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / np.sqrt(cells)
    return np.asarray(np.clip(128 + 60 * film, 0, 255), np.uint8)


def saved_again(film: Film) -> Film:
    """Through a strongly compressed JPEG."""
    return np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0), np.uint8
    )


def halved(film: Film) -> Film:
    """At half its size."""
    return np.asarray(cv2.resize(film, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


def brightened(film: Film) -> Film:
    """A tenth more contrast, and lighter by 12 of 255."""
    return np.asarray(cv2.convertScaleAbs(film, alpha=1.1, beta=12), np.uint8)


def cropped(film: Film, share: float = 0.02) -> Film:
    """Without `share` of its height and width at each side."""
    y, x = (round(side * share) for side in film.shape)
    return film[y : len(film) - y, x : film.shape[1] - x]


def turned(film: Film) -> Film:
    """By one degree, black where nothing is."""
    height, width = film.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 1, 1)
    return np.asarray(cv2.warpAffine(film, turn, (width, height)), np.uint8)


def all_at_once(film: Film) -> Film:
    """Cropped, turned, brightened and saved again."""
    return saved_again(brightened(turned(cropped(film))))


DISTORTIONS: dict[str, Callable[[Film], Film]] = {
    "same": lambda film: film,
    "saved again": saved_again,
    "halved": halved,
    "brightened": brightened,
    "cropped": cropped,
    "turned": turned,
    "all at once": all_at_once,
}
