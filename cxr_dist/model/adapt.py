"""`--model.adapt`: which parameters of the encoders are trained.

`full` trains all, and `head` none. `lora` adds low-rank adapters (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv 2106.09685), made by peft: a layer with the weight W computes (W + alpha / rank · B A) x, of
which only A and B are trained. B starts at zero, so that training starts from the network without adapters. Adapters
are in all linear layers, those of attention among them, or in the convolutions of an encoder without linear layers.
"""

import importlib.util
import warnings
from typing import TypeVar

from torch import nn

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import require
from cxr_dist.model.classifier import Encoders

Network = TypeVar("Network", bound=Encoders)
_ADAPTER = "lora_"  # in peft's names of the parameters A and B


def check_adapters(config: ModelConfig) -> None:
    """Raise UserError if the model needs adapters, and peft is not installed."""
    require(
        config.adapt != "lora" or importlib.util.find_spec("peft") is not None,
        "model.adapt lora needs the package peft: pip install 'cxr_dist[adapters]', or use --model.adapt head or full",
    )


def with_adapters(model: Network, config: ModelConfig) -> Network:
    """The model itself, with adapters in its encoders if the configuration asks for them.

    Their initial values depend on `torch.manual_seed`. Raises UserError for an encoder without a layer for them.
    """
    if config.adapt != "lora":
        return model
    check_adapters(config)
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and an extra

    for name, encoder in (("image", model.image), ("text", model.text)):
        if encoder is None:
            continue
        targets = _targets(encoder)
        require(
            bool(targets),
            f"the {name} encoder has no linear or attention layers, nor convolutions without groups, for model.adapt "
            "lora: use --model.adapt head or full",
        )
        # peft warns of layers that another adapter could share, which does not concern a single one.
        with warnings.catch_warnings(action="ignore"):
            lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets)
            inject_adapter_in_model(lora, encoder)
    model.train_only = _ADAPTER
    model.set_encoders_frozen(False)
    return model


def merged(model: Network) -> Network:
    """The model itself, with its adapters added to the weights that they adapt, and no module of peft left."""
    if not model.train_only:
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BaseTunerLayer) and not isinstance(parent, BaseTunerLayer):
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
    model.train_only = ""
    model.set_encoders_frozen(False)
    return model


def _targets(encoder: nn.Module) -> list[str]:
    """The layers that get adapters: the linear ones, or the convolutions without groups if there are none."""
    linear = [name for name, layer in encoder.named_modules() if type(layer) is nn.Linear]
    convolutions = [n for n, layer in encoder.named_modules() if type(layer) is nn.Conv2d and layer.groups == 1]
    return linear or convolutions
