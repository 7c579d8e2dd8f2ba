"""Named runs: each a short function that changes a few fields of the defaults.

`cxr-dist train NAME` starts from one of them; every field can still be set on the command line.
"""

from collections.abc import Callable

from cxr_dist.config import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from cxr_dist.errors import UserError


def baseline() -> Config:
    """Image only: DenseNet-121, class-weighted cross-entropy, Adam, plateau schedule, early stopping.

    cxr-dist train baseline --data.shards SHARDS
    """
    return Config(
        run="baseline",
        data=DataConfig(global_batch=32, micro_batch=8),
        model=ModelConfig(mode="image"),
        loss=LossConfig(name="cross_entropy", class_weights="balanced"),
        optim=OptimConfig(name="adam", lr=1e-4, weight_decay=0.0, schedule="plateau", clip_norm=0.0),
        train=TrainConfig(epochs=20, early_stopping_patience=5),
    )


def enhanced() -> Config:
    """Image and report: DenseNet-121 and Bio_ClinicalBERT, fused by cross-attention.

    cxr-dist train enhanced --data.shards SHARDS
    """
    return Config(
        run="enhanced",
        data=DataConfig(global_batch=32, micro_batch=8, sampling="weighted"),
        model=ModelConfig(mode="fused", gradient_checkpointing=True),
        loss=LossConfig(name="focal", gamma=2.0, class_weights="balanced"),
        optim=OptimConfig(name="adamw", lr=2e-4, weight_decay=0.01, schedule="linear", warmup_steps=100),
        train=TrainConfig(epochs=20, freeze_epochs=2, mixup_alpha=0.2, mixup_from_epoch=3),
        precision="bf16",
    )


def demo() -> Config:
    """The enhanced recipe at the size of the made demo data: a narrow DenseNet and a BERT from scratch.

    cxr-dist train demo --data.shards SHARDS [--model.mode image|text|fused]
    """
    return Config(
        run="demo",
        data=DataConfig(
            global_batch=32, micro_batch=16, image_size=96, max_tokens=64, sampling="weighted", workers=0
        ),
        model=ModelConfig(
            mode="fused",
            image_encoder="densenet-narrow",
            text_encoder="tiny",
            fusion_dim=64,
            fusion_heads=4,
            pretrained=False,
        ),
        loss=LossConfig(name="focal", gamma=2.0, class_weights="balanced"),
        optim=OptimConfig(name="adamw", lr=2e-3, schedule="linear", warmup_steps=20),
        train=TrainConfig(epochs=12, early_stopping_patience=0),
    )


RUNS: dict[str, Callable[[], Config]] = {"baseline": baseline, "enhanced": enhanced, "demo": demo}


def named_run(name: str) -> Config:
    """The configuration of a named run; raises UserError with the valid names for an unknown one."""
    if name not in RUNS:
        raise UserError(f"unknown run {name!r}; expected one of: {', '.join(RUNS)}")
    return RUNS[name]()
