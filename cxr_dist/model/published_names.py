"""Names of the same network in different publications: where a file's names differ from those that an encoder reads."""

import re
from collections.abc import Iterable

from torch import Tensor

_BLOCK = re.compile(r"(?:.*\.)?blocks\.(\d+)\.(\d+)\.")
_OF_BLOCK = {"_depthwise_conv": "conv_dw", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_EXPANDING = _OF_BLOCK | {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = _OF_BLOCK | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def in_timms_names(weights: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """An EfficientNet in the names of timm, from those of efficientnet_pytorch and its EfficientNet-Lite; else {}.

    There the blocks are counted through (`_blocks.5._expand_conv.weight`), and in timm by stage
    (`blocks.2.1.conv_pw.weight`). The stages are those of `own`, the names of the encoder.
    """
    blocks = sorted({(int(m[1]), int(m[2])) for m in map(_BLOCK.match, own) if m})
    expanding = {name.split(".")[1] for name in weights if "._expand_conv." in name and name.startswith("_blocks.")}
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        first, *rest = name.split(".")
        if first == "_blocks" and len(rest) > 1 and rest[0].isdigit() and int(rest[0]) < len(blocks):
            stage, block = blocks[int(rest[0])]
            layer = (_EXPANDING if rest[0] in expanding else _PLAIN).get(rest[1])
            prefix, rest = f"blocks.{stage}.{block}.", rest[2:]
        else:
            layer, prefix = _OUTSIDE.get(first), ""
        if layer is not None:
            renamed[".".join([prefix + layer, *rest])] = tensor
    return renamed if blocks else {}
