"""Draw the frontal (PA) image of a phantom as a density map.

The patient's right is on the left of the image. Each structure is an outline through a few control points, which
depend on the build of the patient.
"""

import numpy as np

from cxr_dist.shard.phantom.canvas import Canvas, Mask, Points, smooth
from cxr_dist.shard.phantom.study import Build, Study

_HEIGHTS = {"upper": 0.27, "mid": 0.44, "lower": 0.60}


def draw_frontal(study: Study, canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Density of a PA image, [side, side], 0 for air."""
    build = study.build
    lungs = {side: canvas.fill(_lung(build, side), 0.006) for side in ("right", "left")}
    both = np.maximum(lungs["right"], lungs["left"])
    density = _body(build, canvas, rng)
    inside = np.minimum(density, 1)
    density *= 1 - both * (0.82 - 0.10 * build.stoutness)
    density += _vessels(build, canvas, rng) * both
    density += _bones(build, canvas, rng) * inside
    density += _mediastinum(build, canvas)
    density += _heart(study, canvas, rng) * (0.35 + 0.65 * both)  # outside the lungs there is no air to displace
    density += _abdomen(build, canvas, rng) * (1 - both) * inside
    density += _finding(study, lungs, canvas, rng)
    return np.maximum(density, 0)


def _sign(side: str) -> int:
    return -1 if side == "right" else 1  # towards the left or right of the image


def _lung(build: Build, side: str) -> Points:
    s, w, top = _sign(side), build.half_width, build.apex
    base = build.dome + (0.025 if side == "left" else 0.0)
    outline = [
        (0.135, top), (0.215, top + 0.045), (0.275, top + 0.14), (w * 0.93, 0.42), (w, 0.60),
        (w * 1.0, base + 0.055), (w * 0.965, base + 0.085), (w * 0.78, base + 0.012), (w * 0.48, base - 0.032),
        (0.095, base - 0.005), (0.07, 0.52), (0.065, 0.32), (0.055, top + 0.07), (0.085, top + 0.012),
    ]  # fmt: skip
    return smooth([(0.5 + s * x, y) for x, y in outline], closed=True)


def _body(build: Build, canvas: Canvas, rng: np.random.Generator) -> Mask:
    w = build.half_width + 0.075 + 0.05 * build.stoutness
    right = [(0.09, -0.2), (0.10, 0.02), (0.20, 0.065), (0.36, 0.10), (0.47, 0.18)]
    right += [(w + 0.06, 0.32), (w + 0.015, 0.45), (w, 0.62), (w + 0.02, 0.85), (w + 0.03, 1.2)]
    outline = [(0.5 + x, y) for x, y in right] + [(0.5 - x, y) for x, y in reversed(right)]
    body = canvas.fill(smooth(outline, closed=True), 0.010)
    depth = np.linspace(0.95, 1.25, canvas.side, dtype=np.float32)[:, None]
    tissue = (0.90 + 0.25 * build.stoutness) * depth * (1 + 0.03 * canvas.clouds(rng, 0.25))
    breasts = [canvas.blob((0.5 + s * 0.21, 0.66), (0.15, 0.12), 4) for s in (-1, 1)]
    return np.asarray(body * (tissue + 0.16 * build.breasts * (breasts[0] + breasts[1])), np.float32)


def _vessels(build: Build, canvas: Canvas, rng: np.random.Generator) -> Mask:
    """The hila, and vessels that branch from them and get thinner."""
    total = np.zeros((canvas.side, canvas.side), np.float32)
    for side in ("right", "left"):
        s, root = _sign(side), (0.5 + _sign(side) * 0.105, 0.44 if side == "right" else 0.425)
        thick, thin = [], []
        for angle in np.linspace(-1.25, 1.35, 13) + rng.normal(0, 0.07, 13):
            reach = rng.uniform(0.13, 0.27)
            bend = rng.normal(0, 0.25)
            steps = np.linspace(0, 1, 6)
            x = root[0] + s * reach * steps * np.cos(angle + bend * steps)
            y = root[1] + 1.25 * reach * steps * np.sin(angle + bend * steps)
            line = np.stack([x, y], axis=1)
            thick.append(line[:3])
            thin.append(line)
            fork = line[3] + np.array([[0, 0], [s * 0.05, rng.normal(0, 0.05)]])
            thin.append(fork)
        total += 0.16 * canvas.strokes(thick, 0.012, 0.005) + 0.08 * canvas.strokes(thin, 0.004, 0.004)
        total += 0.34 * canvas.blob((root[0], root[1]), (0.035, 0.07))
    return total + 0.012 * canvas.clouds(rng, 0.02)


def _bones(build: Build, canvas: Canvas, rng: np.random.Generator) -> Mask:
    posterior, anterior, clavicles, scapulae = [], [], [], []
    w = build.half_width
    for side in ("right", "left"):
        s = _sign(side)
        for rib in range(9):
            y = build.ribs - 0.035 + rib * 0.073
            out = min(w * 1.04, 0.20 + 0.055 * rib)
            arc = [(0.035, y + 0.02), (0.10, y - 0.012), (out * 0.62, y - 0.005)]
            arc += [(out * 0.9, y + 0.045), (out, y + 0.105)]
            posterior.append(smooth([(0.5 + s * x, v) for x, v in arc], closed=False))
            if 1 <= rib <= 6:
                front = [(out, y + 0.115), (out * 0.88, y + 0.185)]
                front += [(out * 0.65, y + 0.225), (out * 0.45, y + 0.235)]
                anterior.append(smooth([(0.5 + s * x, v) for x, v in front], closed=False))
        tilt = rng.uniform(-0.012, 0.012)
        bone = [(0.03, 0.185), (0.11, 0.165 + tilt), (0.21, 0.128 + tilt)]
        bone += [(0.31, 0.105 + tilt), (0.39, 0.10 + tilt)]
        clavicles.append(smooth([(0.5 + s * x, v) for x, v in bone], closed=False))
        blade = [(0.33, 0.15), (0.315, 0.24), (0.325, 0.34), (0.36, 0.42), (0.40, 0.46)]
        scapulae.append(smooth([(0.5 + s * x, v) for x, v in blade], closed=False))
    density = 0.115 * _cortical(canvas, posterior, 0.026) + 0.055 * _cortical(canvas, anterior, 0.024)
    density += 0.30 * _cortical(canvas, clavicles, 0.030) + 0.10 * canvas.strokes(scapulae, 0.012, 0.008)
    return density + _spine(canvas)


def _cortical(canvas: Canvas, lines: list[Points], width: float) -> Mask:
    """Long bones, which are denser at their edges than inside."""
    outer = canvas.strokes(lines, width, 0.003)
    return outer - 0.35 * canvas.strokes(lines, width * 0.5, 0.003)


def _spine(canvas: Canvas) -> Mask:
    column = canvas.fill(np.array([(0.462, -0.1), (0.538, -0.1), (0.545, 1.1), (0.455, 1.1)]), 0.006)
    discs = [np.array([(0.46, y), (0.54, y)]) for y in np.arange(0.06, 1.05, 0.062)]
    return column * 0.26 - 0.14 * canvas.strokes(discs, 0.010, 0.004)


def _mediastinum(build: Build, canvas: Canvas) -> Mask:
    outline = [(0.455, -0.05), (0.545, -0.05), (0.555, 0.15), (0.565, 0.25), (0.582, 0.30), (0.575, 0.36)]
    outline += [(0.57, 0.45), (0.56, 0.56), (0.44, 0.56), (0.43, 0.45), (0.428, 0.30), (0.445, 0.15)]
    knob = canvas.blob((0.562, 0.315), (0.035, 0.045), 4)
    trachea = [np.array([(0.5, -0.05), (0.498, 0.2), (0.494, 0.335)])]
    trachea += [np.array([(0.494, 0.33), (0.44, 0.40)]), np.array([(0.494, 0.33), (0.565, 0.41)])]
    air = 0.42 * canvas.strokes(trachea[:1], 0.034, 0.006) + 0.2 * canvas.strokes(trachea[1:], 0.02, 0.006)
    return 0.45 * canvas.fill(smooth(outline, closed=True), 0.012) + 0.30 * knob - air


def heart_ratio(study: Study) -> float:
    """Heart width over chest width as drawn. A subtle cardiomegaly is no larger than a large healthy heart."""
    grown = study.build.heart_ratio + 0.03 + 0.15 * study.plainness
    return grown if study.finding == "cardiomegaly" else study.build.heart_ratio


def _heart(study: Study, canvas: Canvas, rng: np.random.Generator) -> Mask:
    width = heart_ratio(study) * 2 * study.build.half_width * rng.uniform(0.96, 1.04)
    right, left, base = 0.31 * width, 0.69 * width, study.build.dome
    points = [
        (0.5 - 0.03, 0.37), (0.5 + 0.07, 0.375), (0.5 + 0.45 * left, 0.455), (0.5 + 0.78 * left, 0.55),
        (0.5 + left, base - 0.075), (0.5 + 0.93 * left, base + 0.005), (0.5 + 0.55 * left, base + 0.04),
        (0.5 - 0.5 * right, base + 0.03), (0.5 - 0.95 * right, base - 0.03), (0.5 - right, base - 0.11),
        (0.5 - 0.75 * right, 0.47),
    ]  # fmt: skip
    outline = smooth(points, closed=True)
    return 0.62 * canvas.fill(outline, 0.008) + 0.33 * canvas.fill(outline, 0.03)


def _abdomen(build: Build, canvas: Canvas, rng: np.random.Generator) -> Mask:
    rows = np.arange(canvas.side, dtype=np.float32)[:, None] / canvas.side
    density = np.asarray(0.70 * np.clip((rows - build.dome + 0.02) / 0.20, 0, 1), np.float32)
    if rng.random() < 0.6:  # gas in the stomach, under the left dome
        bubble = (0.5 + rng.uniform(0.14, 0.2), build.dome + rng.uniform(0.08, 0.10))
        density = density - 0.55 * canvas.blob(bubble, (rng.uniform(0.05, 0.09), rng.uniform(0.02, 0.04)), 4)
    return density


def _finding(study: Study, lungs: dict[str, Mask], canvas: Canvas, rng: np.random.Generator) -> Mask:
    lung, s = lungs[study.side], _sign(study.side)
    place = (0.5 + s * rng.uniform(0.15, 0.25), _HEIGHTS[study.zone] + rng.normal(0, 0.03))
    if study.finding == "effusion":
        return _fluid(study, canvas) * lung
    if study.finding == "opacity":
        size = rng.uniform(0.06, 0.11)
        patch = canvas.blob(place, (size, size * rng.uniform(0.7, 1.2)))
        patchy: Mask = np.clip(1 + 0.45 * canvas.clouds(rng, 0.05), 0.1, 2)
        return (0.10 + 0.55 * study.plainness) * patch * patchy * lung
    if study.finding == "nodule":
        radius = 0.018 + 0.022 * study.plainness
        return (0.15 + 0.45 * study.plainness) * canvas.blob(place, (radius, radius), 5) * lung
    return 0 * lung


def _fluid(study: Study, canvas: Canvas) -> Mask:
    """Fluid in the angle between ribs and diaphragm, with an upper border that rises along the chest wall."""
    s, w = _sign(study.side), study.build.half_width
    base = study.build.dome + (0.025 if study.side == "left" else 0.0)
    level = base + 0.08 - 0.23 * study.plainness
    outline = [(w * 1.1, level - 0.10), (w * 0.93, level - 0.035), (w * 0.75, level + 0.01)]
    outline += [(w * 0.45, level + 0.03), (0.05, level + 0.035), (0.05, 0.95), (w * 1.1, 0.95)]
    fluid = canvas.fill(np.array([(0.5 + s * x, y) for x, y in outline]), 0.014)
    return (0.15 + 0.55 * study.plainness) * fluid
