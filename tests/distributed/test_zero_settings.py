"""DeepSpeed's configuration, and what a site's file may set."""

import dataclasses
from pathlib import Path

import pytest

from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import check_parallel
from cxr_dist.distributed.world import World
from cxr_dist.distributed.zero_settings import zero_settings
from cxr_dist.errors import UserError

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "deepspeed"


def config(parallel="zero2", **changes):
    return dataclasses.replace(named_run("demo"), parallel=parallel, **changes)


FILES = sorted(LAUNCH.glob("*.json"))


def test_there_is_a_file_for_each_engine_and_for_offloading():
    assert [p.stem for p in FILES] == ["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_site_file_has_the_defaults_and_offloads_if_its_name_says_so(path):
    engine, _, offload = path.stem.partition("_")
    plain, site = zero_settings(config(engine)), zero_settings(config(engine, deepspeed=str(path)))
    expected, found = (effective(each.pop("zero_optimization")) for each in (plain, site))
    assert site == plain
    offloaded = {name: found.pop(name) for name in ("offload_optimizer", "offload_param")}
    assert found.items() == {name: expected[name] for name in found}.items()
    places = [each and each["device"] for each in offloaded.values()]
    assert places == ([None, None] if not offload else ["cpu", "cpu" if engine == "zero3" else None])


def effective(section):
    """Return a section with DeepSpeed's own defaults filled in."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return DeepSpeedZeroConfig(**section).model_dump(mode="json")


def test_a_site_file_overrides_the_defaults(tmp_path):
    path = tmp_path / "site.json"
    path.write_text('{"zero_optimization": {"reduce_bucket_size": 7, "overlap_comm": true}}')
    plain, site = zero_settings(config("zero1")), zero_settings(config("zero1", deepspeed=str(path)))
    changed = {"reduce_bucket_size": 7, "overlap_comm": True}
    assert site["zero_optimization"] == plain["zero_optimization"] | changed


def test_precision_and_clipping_come_from_the_run():
    demo = named_run("demo")
    found = zero_settings(config(precision="bf16", optim=dataclasses.replace(demo.optim, clip_norm=0.25)))
    assert found["torch_autocast"]["enabled"]
    assert found["gradient_clipping"] == 0.25
    assert not zero_settings(config(precision="fp32"))["torch_autocast"]["enabled"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is not JSON \(.*line 1"),
        ("[]", r'not of the form \{"zero_optimization": \{\.\.\.\}\}'),
        ("{}", "not of the form"),
        (
            '{"zero_optimization": {}, "gradient_clipping": 1}',
            "sets 'gradient_clipping', which follows from the run",
        ),
        (
            '{"zero_optimization": {"stage": 1}}',
            "is for stage 1, but --parallel is zero2: choose another file, or another engine",
        ),
        (
            '{"zero_optimization": {"compute_grad_norm": false}}',
            "sets compute_grad_norm to false, but updates that are not finite are recognised by that norm",
        ),
    ],
)
def test_a_wrong_file_is_refused_before_ranks_join(tmp_path, text, message):
    path = tmp_path / "site.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        check_parallel(config(deepspeed=str(path)), World(rank=0, world_size=2))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read \(No such file or directory\)"):
        check_parallel(config(deepspeed=str(tmp_path / "nowhere.json")), World(rank=0, world_size=2))


def test_settings_for_an_engine_that_is_not_used_are_refused():
    with pytest.raises(UserError, match="parallel is ddp: add --parallel zero1, zero2 or zero3"):
        config("ddp", deepspeed="site.json")


def test_zero_needs_several_ranks_and_single_precision():
    with pytest.raises(
        UserError, match="spreads the optimizer's state over ranks, but there is only one: use --parallel ddp"
    ):
        check_parallel(config("zero1"), World())
    check_parallel(config("zero1"), World(rank=1, world_size=2))
    check_parallel(config("ddp"), World())
    with pytest.raises(UserError, match="DeepSpeed has no fp64: use --parallel ddp"):
        config("zero3", precision="fp64")
