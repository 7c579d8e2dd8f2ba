"""Where the model looked: Grad-CAM over the film (Selvaraju et al. 2017)."""

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs


def grad_cam(model: Classifier, inputs: Inputs, class_index: int) -> NDArray[np.float64]:
    """Heat in [0, 1] over the image tokens of one film, shape [h, w]; all 0 where nothing speaks for the class.

    The films of a study stand side by side, [h, films · w], on one scale.

    Args:
        model: in eval mode, with an image encoder.
        inputs: of one case, b = 1.
        class_index: the class whose logit is explained.
    """
    assert inputs.images is not None, "Grad-CAM needs a film"
    with torch.enable_grad():
        features = model.encode(inputs)
        assert features.image_tokens is not None
        logit = model.classify(features)[0, class_index]
        (gradient,) = torch.autograd.grad(logit, features.image_tokens)
    heat = (gradient.mean(dim=1, keepdim=True) * features.image_tokens.detach()).sum(-1).clamp_min(0)[0]
    height, width = (side // 32 for side in inputs.images.shape[2:])
    films = heat.double().reshape(-1, height, width)[: len(inputs.images)]  # what is missing comes last
    heat = films.movedim(0, 1).reshape(height, -1)
    return (heat / heat.max().clamp_min(1e-12)).cpu().numpy()
