"""Stages that the user writes: the documented example runs with the same result at any number of ranks and workers."""

import dataclasses
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from lane_batches import lane_batches

from cxr_dist.data import own_stages as documented
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.own_stages import own_stages
from cxr_dist.data.store import ShardError
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest
from cxr_dist.train.assembly import check_against


@pytest.fixture
def example(tmp_path):
    """The stages.py of the module's docstring."""
    text = re.search(r"# stages\.py\n(.*?)\n\n    cxr-dist train", documented.__doc__, re.DOTALL)[1]
    (tmp_path / "stages.py").write_text(textwrap.dedent(text))
    return f"{tmp_path}/stages.py:salt"


def stream(config, stages, world_size=1, workers=0, first_step=0, steps=5):
    """Pixels and labels of each micro-batch by (step, lane), over all ranks."""
    data = dataclasses.replace(config.data, stages=tuple(stages), workers=workers)
    manifest = load_manifest(Path(data.shards))
    batches = lane_batches(data, manifest, config.seed, steps=steps, first_step=first_step, world_size=world_size)
    return {place: (batch.images.numpy(), batch.labels.tolist()) for place, batch in batches}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k][0], b[k][0]) and a[k][1] == b[k][1] for k in a)


def test_the_documented_example_changes_training_and_the_stream_stays_pure(tiny_config, example):
    plain, salted = stream(tiny_config, []), stream(tiny_config, [example])
    assert {k: labels for k, (_, labels) in salted.items()} == {k: labels for k, (_, labels) in plain.items()}
    brighter = [np.mean(salted[k][0] > plain[k][0]) for k in plain]
    assert min(brighter) > 0.001
    assert max(brighter) < 0.2
    assert equal(stream(tiny_config, [example], world_size=2, workers=1), salted)
    resumed = stream(tiny_config, [example], first_step=3, steps=2)
    assert equal(resumed, {k: batch for k, batch in salted.items() if k[0] >= 3})
    twice = stream(tiny_config, [example, example])
    # The second stage has random numbers of its own.
    assert np.mean([np.mean(twice[k][0] != salted[k][0]) for k in plain]) > 0.001


def test_evaluation_does_not_run_stages(tiny_config, example):
    def read(data):
        manifest = load_manifest(Path(data.shards))
        loader = evaluation_loader(data, manifest, "val", rank=0, world_size=1, tokenizer=None, with_images=True)
        return np.concatenate([batch.images.numpy() for batch in loader])

    with_stage = dataclasses.replace(tiny_config.data, stages=(example,))
    np.testing.assert_array_equal(read(with_stage), read(tiny_config.data))


STAGES = """
import numpy as np

SECRET = "Mrs Featherstonehaugh"

def relabel(sample, random):
    assert set(sample) == {"__key__", "jpg", "json"}
    return sample | {"json": {**sample["json"], "label": 99, "text": {}}, "sample_id": -1}

def fails(sample, random):
    raise KeyError(SECRET)

def forgets(sample, random):
    sample["jpg"] = sample["jpg"][::2]

def floats(sample, random):
    return sample | {"jpg": sample["jpg"] / 255}

def silent(sample, random):
    return sample | {"json": {"text": {"findings": None}}}
"""


@pytest.fixture
def stages(tmp_path):
    (tmp_path / "mine.py").write_text(STAGES)
    return f"{tmp_path}/mine.py"


def test_a_stage_cannot_change_labels_or_ids(tiny_config, stages):
    assert equal(stream(tiny_config, [f"{stages}:relabel"]), stream(tiny_config, []))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forgets", "did not return a sample"),
        ("floats", "grey uint8"),
        ("silent", 'a dict with "text", a dict of texts'),
    ],
)
def test_a_stage_that_returns_no_valid_sample_is_refused(tiny_config, stages, name, message):
    with pytest.raises(UserError, match=rf"data\.stages: stage .*:{name}' .*{message}"):
        stream(tiny_config, [f"{stages}:{name}"])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_failing_stage_has_its_line_and_no_content(tiny_config, stages, workers):
    with pytest.raises((UserError, ShardError), match=r":fails' raised KeyError in line 11 of mine\.py") as caught:
        stream(tiny_config, [f"{stages}:fails"], workers=workers)
    assert "Featherstonehaugh" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:f",
            r"'no_such_module:f': there is no module 'no_such_module'; expected MODULE:NAME",
        ),
        ("/nowhere/x.py:f", r"'/nowhere/x\.py:f': there is no file /nowhere/x\.py; expected MODULE:NAME"),
        ("salt", r"'salt': expected MODULE:NAME or FILE\.py:NAME"),
        ("json:no_such", "'json:no_such': json defines no 'no_such' that can be called"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(name, message):
    with pytest.raises(UserError, match=f"^data.stages: stage {message}"):
        own_stages([name])


@pytest.mark.parametrize("name", ["fails", "forgets", "floats", "silent"])
def test_a_stage_that_breaks_the_protocol_is_refused_before_the_start(tiny_config, stages, name):
    data = dataclasses.replace(tiny_config.data, stages=(f"{stages}:relabel", f"{stages}:{name}"))
    config = dataclasses.replace(tiny_config, data=data)
    with pytest.raises(UserError, match=rf"data\.stages: stage .*:{name}'"):
        check_against(config, load_manifest(Path(data.shards)))


TAKES_ALL = """
def every_part(sample, random):
    images, facts = [name for name in sample if name.endswith("jpg")], sample["json"]
    assert images == IMAGES and set(facts["text"]) == {"indication", "findings", "impression"}
    assert all(isinstance(sample[name], bytes) == (MODE == "text") for name in images)
    return sample
"""


@pytest.mark.parametrize("mode", ["fused", "text"])
def test_the_synthetic_sample_has_the_parts_of_a_stored_one(tiny_config, study_config, tmp_path, mode):
    for config, images in ((tiny_config, ["jpg"]), (study_config, ["jpg", "1.jpg"])):
        path = tmp_path / f"{len(images)}.py"
        path.write_text(f"IMAGES, MODE = {images}, {mode!r}\n{TAKES_ALL}")
        data = dataclasses.replace(config.data, stages=(f"{path}:every_part",))
        model = dataclasses.replace(config.model, mode=mode)
        check_against(dataclasses.replace(config, data=data, model=model), load_manifest(Path(data.shards)))


def test_the_dry_run_refuses_invalid_stages_too(cxr_dist, tiny_shards, stages):
    for stage, message in (
        ("nowhere:x", "there is no module"),
        (f"{stages}:floats", "did not return a sample"),
    ):
        status, _, said = cxr_dist("plan", "demo", "--data.shards", tiny_shards, "--data.stages", stage)
        assert status == 2
        assert f"data.stages: stage '{stage}'" in said.replace("\n", "")
        assert message in said
