"""A synthetic image that is drawn when it is read, in any process."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_dist.shard.phantom.canvas import Canvas, Pose, expose
from cxr_dist.shard.phantom.frontal import draw_frontal
from cxr_dist.shard.phantom.lateral import draw_lateral
from cxr_dist.shard.phantom.study import draw_study


@dataclass(frozen=True, kw_only=True)
class PhantomImage:
    """One view of one synthetic study; the pixels depend only on these fields."""

    seed: int
    study: int
    view: str
    side: int

    def exists(self) -> bool:
        """Always true, because the image is drawn."""
        return True

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Draw the image, [side, side], 0 black to 255 white; the caller shrinks it to `short_side`."""
        study = draw_study(self.seed, self.study)
        rng = np.random.default_rng([self.seed, 2, self.study, study.views.index(self.view)])
        pose = Pose(
            degrees=float(rng.normal(0, 1.8)),
            zoom=float(rng.uniform(0.95, 1.07)),
            shift=(float(rng.normal(0, 0.012)), float(rng.normal(0, 0.012))),
        )
        canvas = Canvas(side=self.side, pose=pose)
        draw = draw_frontal if self.view == "PA" else draw_lateral
        image = expose(draw(study, canvas, rng), rng)
        return _marked(image, rng) if self.view == "PA" else image


def _marked(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add the lead letter that marks the left side of the patient."""
    side = len(image)
    corner = (round(side * rng.uniform(0.86, 0.91)), round(side * rng.uniform(0.09, 0.13)))
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, side // 110)
    cv2.putText(image, "L", corner, font, side / 300, 235, thickness, cv2.LINE_AA)
    return image
