"""Draw the lateral image of a phantom as a density map, with the sternum on the left and the spine on the right."""

import numpy as np

from cxr_dist.shard.phantom.canvas import Canvas, Mask, Points, smooth
from cxr_dist.shard.phantom.frontal import heart_ratio
from cxr_dist.shard.phantom.study import Build, Study

_HEIGHTS = {"upper": 0.30, "mid": 0.45, "lower": 0.60}


def draw_lateral(study: Study, canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Density of a lateral image, [side, side], 0 for air."""
    build = study.build
    lung = canvas.fill(_lung(build), 0.008)
    density = _body(build, canvas, rng)
    inside = np.minimum(density, 1)
    density *= 1 - 0.66 * lung
    density += _bones(canvas) * inside + _heart(study, canvas) + _finding(study, lung, canvas, rng)
    density += 0.05 * canvas.clouds(rng, 0.05) * lung
    return np.maximum(density, 0)


def _lung(build: Build) -> Points:
    base = build.dome
    outline = [
        (0.46, 0.14),
        (0.36, 0.20),
        (0.27, 0.32),
        (0.225, 0.48),
        (0.22, base - 0.06),
        (0.25, base - 0.03),
    ]
    outline += [(0.36, base - 0.05), (0.50, base - 0.01), (0.64, base + 0.07), (0.74, base + 0.15)]
    outline += [(0.775, base + 0.10)]
    outline += [(0.79, 0.55), (0.765, 0.36), (0.70, 0.22), (0.60, 0.145)]
    return smooth(outline, closed=True)


def _body(build: Build, canvas: Canvas, rng: np.random.Generator) -> Mask:
    front = 0.17 - 0.04 * build.stoutness
    outline = [(0.38, -0.2), (0.37, 0.06), (0.28, 0.17), (front, 0.36), (front - 0.02, 0.6), (front, 0.85)]
    outline += [(front, 1.2)]
    outline += [(0.9, 1.2), (0.90, 0.8), (0.92, 0.5), (0.90, 0.28), (0.80, 0.12), (0.68, 0.04), (0.66, -0.2)]
    depth = np.linspace(1.0, 1.5, canvas.side, dtype=np.float32)[:, None]
    body = canvas.fill(smooth(outline, closed=True), 0.010)
    return body * (1.25 + 0.25 * build.stoutness) * depth * (1 + 0.03 * canvas.clouds(rng, 0.2))


def _bones(canvas: Canvas) -> Mask:
    bodies = [
        np.array([(0.735 + 0.045 * np.sin(np.pi * y), y), (0.80 + 0.045 * np.sin(np.pi * y), y)])
        for y in np.arange(0.05, 1.0, 0.068)
    ]
    column = canvas.blob((0.78, 0.5), (0.06, 0.5), 4)
    density: Mask = 0.28 * canvas.strokes(bodies, 0.050, 0.007) + 0.2 * column
    ribs = []
    for y in np.arange(0.16, 0.75, 0.075):
        arc = [(0.80, y), (0.70, y + 0.035), (0.52, y + 0.12), (0.36, y + 0.20)]
        ribs.append(smooth(arc, closed=False))
    density += 0.10 * canvas.strokes(ribs, 0.018, 0.004)
    sternum = smooth([(0.315, 0.22), (0.235, 0.34), (0.20, 0.50), (0.195, 0.60)], closed=False)
    arms = canvas.blob((0.56, 0.02), (0.22, 0.12))
    return np.asarray(density + 0.28 * canvas.strokes([sternum], 0.028, 0.006) + 0.5 * arms, np.float32)


def _heart(study: Study, canvas: Canvas) -> Mask:
    depth, base = 0.30 * heart_ratio(study) / 0.455, study.build.dome
    outline = [(0.33, 0.40), (0.45, 0.36), (0.235 + depth, 0.48), (0.25 + depth, 0.60), (0.22 + depth, base)]
    outline += [(0.30, base + 0.01), (0.225, base - 0.04), (0.24, 0.52)]
    shadow = canvas.fill(smooth(outline, closed=True), 0.012)
    vessels = canvas.blob((0.48, 0.40), (0.07, 0.06), 2)
    trachea = canvas.strokes([np.array([(0.52, -0.05), (0.535, 0.2), (0.545, 0.36)])], 0.03, 0.008)
    return np.asarray(0.60 * shadow + 0.35 * vessels - 0.28 * trachea, np.float32)


def _finding(study: Study, lung: Mask, canvas: Canvas, rng: np.random.Generator) -> Mask:
    place = (rng.uniform(0.42, 0.66), _HEIGHTS[study.zone] + rng.normal(0, 0.03))
    if study.finding == "effusion":  # the posterior angle fills first
        level = study.build.dome + 0.10 - 0.20 * study.plainness
        outline = [(0.35, level + 0.06), (0.62, level + 0.02), (0.82, level - 0.06), (0.85, 1.0), (0.35, 1.0)]
        return (0.15 + 0.55 * study.plainness) * canvas.fill(np.array(outline), 0.014) * lung
    if study.finding == "opacity":
        patchy: Mask = np.clip(1 + 0.45 * canvas.clouds(rng, 0.05), 0.1, 2)
        return (0.05 + 0.45 * study.plainness) * canvas.blob(place, (0.09, 0.08)) * patchy * lung
    if study.finding == "nodule":
        radius = 0.018 + 0.020 * study.plainness
        return (0.10 + 0.40 * study.plainness) * canvas.blob(place, (radius, radius), 5) * lung
    return 0 * lung
