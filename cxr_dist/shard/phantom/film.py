"""A phantom's film as the writer wants it: drawn when read, in whatever process that is."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_dist.shard.phantom.canvas import Canvas, Pose, expose
from cxr_dist.shard.phantom.frontal import draw_frontal
from cxr_dist.shard.phantom.lateral import draw_lateral
from cxr_dist.shard.phantom.study import draw_study


@dataclass(frozen=True, kw_only=True)
class PhantomFilm:
    """One view of one made study; the same fields give the same pixels."""

    seed: int
    study: int
    view: str
    side: int

    def exists(self) -> bool:
        """A phantom is always there."""
        return True

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Draw the film, [side, side], 0 black to 255 white; the caller shrinks it to `short_side`."""
        study = draw_study(self.seed, self.study)
        rng = np.random.default_rng([self.seed, 2, self.study, study.views.index(self.view)])
        pose = Pose(
            degrees=float(rng.normal(0, 1.8)),
            zoom=float(rng.uniform(0.95, 1.07)),
            shift=(float(rng.normal(0, 0.012)), float(rng.normal(0, 0.012))),
        )
        canvas = Canvas(side=self.side, pose=pose)
        draw = draw_frontal if self.view == "PA" else draw_lateral
        film = expose(draw(study, canvas, rng), rng)
        return _marked(film, rng) if self.view == "PA" else film


def _marked(film: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The lead letter that says which side is the patient's left."""
    side = len(film)
    corner = (round(side * rng.uniform(0.86, 0.91)), round(side * rng.uniform(0.09, 0.13)))
    cv2.putText(
        film, "L", corner, cv2.FONT_HERSHEY_SIMPLEX, side / 300, 235, max(1, side // 110), cv2.LINE_AA
    )
    return film
