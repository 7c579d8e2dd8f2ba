"""Named runs: each is a short function that changes a few fields of the default configuration.

`cxr-dist train NAME` starts from one of them; every field can still be set on the command line.
"""

from collections.abc import Callable
from dataclasses import replace

from cxr_dist.config.data import DataConfig
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.optim import LossConfig, OptimConfig
from cxr_dist.config.run import Config
from cxr_dist.config.train import TrainConfig
from cxr_dist.errors import unknown


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
        model=ModelConfig(mode="fused", gradient_checkpointing="auto"),
        loss=LossConfig(name="focal", gamma=2.0, class_weights="balanced"),
        optim=OptimConfig(name="adamw", lr=2e-4, weight_decay=0.01, schedule="linear", warmup_steps=100),
        train=TrainConfig(epochs=20, freeze_epochs=2, mixup_alpha=0.2, mixup_from_epoch=3),
        precision="bf16",
    )


def pretrain() -> Config:
    """Pretraining without labels: DenseNet-121 and Bio_ClinicalBERT learn which report belongs to which image.

    cxr-dist train pretrain --data.shards SHARDS
    """
    return Config(
        run="pretrain",
        data=DataConfig(global_batch=256, micro_batch=16, text_sections=("findings", "impression")),
        model=ModelConfig(mode="contrastive", gradient_checkpointing="auto"),
        loss=LossConfig(class_weights="none"),
        optim=OptimConfig(name="adamw", lr=1e-4, weight_decay=0.01, schedule="cosine", warmup_steps=100),
        train=TrainConfig(epochs=20, early_stopping_patience=0),
        precision="bf16",
    )


def demo() -> Config:
    """The enhanced recipe at the size of the demo data; `--model.mode text` or `image` for one input alone.

    cxr-dist train demo --data.shards SHARDS
    """
    return replace(_at_demo_size(enhanced()), run="demo")


def demo_baseline() -> Config:
    """The baseline recipe at the size of the synthetic demo data.

    cxr-dist train demo-baseline --data.shards SHARDS
    """
    return replace(_at_demo_size(baseline()), run="demo-baseline")


def demo_pretrain() -> Config:
    """The pretraining recipe at the size of the synthetic demo data.

    cxr-dist train demo-pretrain --data.shards SHARDS
    """
    small = replace(_at_demo_size(pretrain()), run="demo-pretrain")
    return replace(
        small,
        # From the synthetic findings, of which most sentences say what is absent, so small a run learns nothing.
        data=replace(small.data, global_batch=64, text_sections=("impression",)),
        pretrain=replace(small.pretrain, sentences=0),
        optim=replace(small.optim, lr=1e-3),
        train=replace(small.train, epochs=40),
    )


def _at_demo_size(config: Config) -> Config:
    """Use a narrow DenseNet, a small BERT from scratch and small images: a few minutes on two CPU cores."""
    return replace(
        config,
        data=replace(
            config.data,
            micro_batch=16,
            image_size=96,
            max_tokens=64,
            workers=0,
            rotation_degrees=3.0,  # the synthetic images are not rotated, and their findings are faint
            shift=0.02,
            zoom=0.05,
            brightness=0.03,
            contrast=0.05,
        ),
        model=replace(
            config.model,
            image_encoder="densenet-narrow",
            text_encoder="tiny",
            fusion_dim=64,
            fusion_heads=4,
            pretrained=False,
            gradient_checkpointing="off",
        ),
        # With few images, the validation AUC jumps until the learning rate is small; a cosine ends smoothly at 0.
        optim=replace(config.optim, lr=2e-3, warmup_steps=min(config.optim.warmup_steps, 20), schedule="cosine"),
        train=replace(config.train, epochs=12, freeze_epochs=0, early_stopping_patience=0),
        precision="fp32",
    )


RUNS: dict[str, Callable[[], Config]] = {
    "baseline": baseline,
    "enhanced": enhanced,
    "pretrain": pretrain,
    "demo": demo,
    "demo-baseline": demo_baseline,
    "demo-pretrain": demo_pretrain,
}


def named_run(name: str) -> Config:
    """Return the configuration of a named run; raises UserError for an unknown name."""
    if name not in RUNS:
        raise unknown("run", name, RUNS)
    return RUNS[name]()
