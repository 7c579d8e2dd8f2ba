"""What DeepSpeed is told, and what a site's file may and may not say."""

import dataclasses
import json
from pathlib import Path

import pytest

from cxr_dist.distributed.backend import check_parallel
from cxr_dist.distributed.world import World
from cxr_dist.distributed.zero_settings import zero_settings
from cxr_dist.errors import UserError
from cxr_dist.runs import named_run

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "deepspeed"


def config(parallel="zero2", **changes):
    return dataclasses.replace(named_run("demo"), parallel=parallel, **changes)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.json")), ids=lambda p: p.name)
def test_a_site_file_is_laid_over_the_defaults(stage, path):
    plain, site = (
        zero_settings(config(f"zero{stage}")),
        zero_settings(config(f"zero{stage}", deepspeed=str(path))),
    )
    section = site.pop("zero_optimization")
    assert plain.pop("zero_optimization").items() <= section.items()
    assert json.loads(path.read_text())["zero_optimization"].items() <= section.items()
    assert section["stage"] == stage
    assert site == plain


def test_precision_and_clipping_come_from_the_run():
    demo = named_run("demo")
    found = zero_settings(config(precision="bf16", optim=dataclasses.replace(demo.optim, clip_norm=0.25)))
    assert found["torch_autocast"]["enabled"]
    assert found["gradient_clipping"] == 0.25
    assert not zero_settings(config(precision="fp32"))["torch_autocast"]["enabled"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"cannot be read as JSON \(JSONDecodeError\)"),
        ("[]", r'not of the form \{"zero_optimization": \{\.\.\.\}\}'),
        ("{}", "not of the form"),
        (
            '{"zero_optimization": {}, "gradient_clipping": 1}',
            "sets 'gradient_clipping', which follows from the run",
        ),
        (
            '{"zero_optimization": {"stage": 1}}',
            r"sets 'zero_optimization\.stage'.*keep 'zero_optimization' without",
        ),
    ],
)
def test_a_wrong_file_is_refused_before_ranks_join(tmp_path, text, message):
    path = tmp_path / "site.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        check_parallel(config(deepspeed=str(path)), World(rank=0, world_size=2))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read as JSON \(FileNotFoundError\)"):
        check_parallel(config(deepspeed=str(tmp_path / "nowhere.json")), World(rank=0, world_size=2))


def test_settings_for_an_engine_that_is_not_used_are_refused():
    with pytest.raises(UserError, match="parallel is ddp: add --parallel zero1, zero2 or zero3"):
        config("ddp", deepspeed="site.json")


def test_zero_needs_several_ranks_and_single_precision():
    with pytest.raises(
        UserError, match="spreads the optimizer's state over ranks, and there is one: use --parallel ddp"
    ):
        check_parallel(config("zero1"), World())
    check_parallel(config("zero1"), World(rank=1, world_size=2))
    check_parallel(config("ddp"), World())
    with pytest.raises(UserError, match="DeepSpeed has no fp64: use --parallel ddp"):
        config("zero3", precision="fp64")
