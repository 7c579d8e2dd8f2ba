"""The config.json of an exported model has the same bytes in every release, and every field of it is checked."""

import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_dist.config.data import DataConfig
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.inference.description import Description

DIGEST = "0123456789abcdef" * 4
DESCRIPTION = Description(
    config=named_run("enhanced"),
    task="multilabel",
    classes=("Größe", "B"),
    image={"short_side": 256, "quality": 92, "views": 2},
    step=3,
    manifest_sha256=DIGEST,
    calibrator=Calibrator.of(2, temperature=1.25),
    thresholds={"B": 0.25},
    stored_sections=("indication", "findings", "impression"),
    reader="openi",
    redact=("edema",),
)
VERSION_1 = """\
{"format": "cxr_dist model", "format_version": 1, "cxr_dist_version": "0.1.0", "run": "enhanced",
 "task": "multilabel", "classes": ["Größe", "B"],
 "architecture": {"mode": "fused", "image_encoder": "densenet121",
  "text_encoder": "emilyalsentzer/Bio_ClinicalBERT", "fusion": "tokens", "fusion_dim": 512, "fusion_heads": 8,
  "fusion_dropout": 0.1, "image_dropout": 0.0, "head_dropout": [0.5, 0.3], "pretrained": true,
  "sync_batchnorm": false},
 "stored_image": {"short_side": 256, "quality": 92, "views": 2},
 "image": {"size": 224, "channels": 1, "mean": 0.449, "deviation": 0.226},
 "text": {"sections": ["indication", "findings"], "max_tokens": 128}, "precision": "bf16", "seed": 42,
 "checkpoint_step": 3, "manifest_sha256": "DIGEST", "temperature": 1.25,
 "note": "research software, not for clinical use"}
""".replace("DIGEST", DIGEST)
"""What earlier releases wrote for DESCRIPTION, except for the line breaks."""


def test_this_release_writes_a_calibrator_in_place_of_the_temperature_of_version_1():
    plain = json.loads(VERSION_1)
    plain["format_version"] = 2
    plain["text"] |= {"stored_sections": ["indication", "findings", "impression"], "reader": "openi"}
    plain["text"]["redact"] = ["edema"]
    calibrator = {"prior_shift": [0.0, 0.0], "temperature": 1.25, "bias": [0.0, 0.0]}
    expected = {}
    for name, value in plain.items():
        expected |= {"calibrator": calibrator, "thresholds": {"B": 0.25}} if name == "temperature" else {name: value}
    assert DESCRIPTION.to_json() == json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
    back = Description.from_plain(json.loads(DESCRIPTION.to_json()))
    for field in ("thresholds", "stored_sections", "reader", "redact"):
        assert getattr(back, field) == getattr(DESCRIPTION, field)


def test_an_export_of_version_1_without_a_temperature_has_no_calibrator():
    plain = json.loads(VERSION_1) | {"temperature": None}
    assert Description.from_plain(plain).calibrator is None
    assert (Description.from_plain(plain).thresholds, Description.from_plain(plain).stored_sections) == ({}, ())


def test_thresholds_of_other_classes_are_refused():
    plain = json.loads(dataclasses.replace(DESCRIPTION, thresholds={"C": 0.5}).to_json())
    with pytest.raises(UserError, match=r"thresholds is \{'C': 0\.5\}; expected names of classes only"):
        Description.from_plain(plain)


def test_the_first_exports_without_sync_batchnorm_can_still_be_read():
    plain = json.loads(VERSION_1.replace(',\n  "sync_batchnorm": false', ""))
    description = Description.from_plain(plain)
    assert description == Description.from_plain(json.loads(VERSION_1))
    assert description.config.model == dataclasses.replace(
        DESCRIPTION.config.model, gradient_checkpointing=ModelConfig().gradient_checkpointing
    )


NAMES = st.text(min_size=1, max_size=9)
DESCRIPTIONS = st.builds(
    Description,
    config=st.builds(
        Config,
        run=NAMES,
        seed=st.integers(0, 2**31 - 1),
        precision=st.sampled_from(["fp32", "bf16", "fp64"]),
        data=st.builds(
            DataConfig,
            image_size=st.integers(32, 999),
            max_tokens=st.integers(8, 999),
            text_sections=st.lists(NAMES, min_size=1, unique=True).map(tuple),
        ),
        model=st.builds(
            ModelConfig,
            mode=st.sampled_from(["image", "text", "fused"]),
            head_dropout=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
        ),
    ),
    task=st.sampled_from(["multiclass", "multilabel"]),
    classes=st.lists(NAMES, min_size=1, unique=True).map(tuple),
    image=st.tuples(st.integers(1, 4096), st.integers(1, 100), st.integers(2, 8)).flatmap(
        lambda values: st.sampled_from([2, 3]).map(
            lambda n: dict(zip(("short_side", "quality", "views")[:n], values, strict=False))
        )
    ),
    step=st.integers(0, 2**40),
    manifest_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)
CALIBRATORS = st.tuples(st.floats(-9, 9), st.floats(0, 99, exclude_min=True), st.floats(-9, 9))


@given(DESCRIPTIONS, st.none() | CALIBRATORS)
@settings(max_examples=50, deadline=None)
def test_writing_and_reading_a_description_keeps_its_bytes(description, values):
    if values is not None:
        shift, temperature, bias = values
        width = len(description.classes)
        calibrator = Calibrator(prior_shift=(shift,) * width, temperature=temperature, bias=(bias,) * width)
        description = dataclasses.replace(description, calibrator=calibrator)
    back = Description.from_plain(json.loads(description.to_json()))
    assert back.to_json() == description.to_json()
    given = {f.name: getattr(description, f.name) for f in dataclasses.fields(description)}
    assert back == Description(**given | {"config": back.config})


def changed(path: str, value: Any) -> dict[str, Any]:
    """VERSION_1 with `value` at a path such as architecture.mode; the value ... deletes the field."""
    plain = json.loads(VERSION_1)
    *outer, name = path.split(".")
    inner = plain
    for each in outer:
        inner = inner[each]
    inner[name] = value
    if value is ...:
        del inner[name]
    return plain


FAULTS = [
    ("architecture.mode", "fsued", r"architecture\.mode is 'fsued'; .* \(did you mean 'fused'\?\)"),
    ("architecture.fusion_dim", 2.5, r"architecture\.fusion_dim is 2\.5; expected a whole number"),
    ("architecture.fusion_heads", 7, r"model\.fusion_dim 512 is not a multiple of model\.fusion_heads 7"),
    ("architecture.fusion_heads", ..., r"architecture\.fusion_heads is missing"),
    ("architecture.fusion_width", 8, r"unknown field architecture\.fusion_width \(did you mean 'fusion_dim'\?\)"),
    ("architecture.head_dropout", [0.5], r"architecture\.head_dropout is a list of 1; expected a list of 2"),
    ("task", "multi", r"task is 'multi'; expected one of: multiclass, multilabel"),
    ("task", ..., r"task is missing"),
    ("classes", [], r"classes is \(\); expected at least one name, and none twice"),
    ("classes", ["A", "A"], r"classes is .*; expected at least one name, and none twice"),
    ("classes", ["A", 1], r"classes\[1\] is 1; expected text"),
    ("temperature", 0, r"calibrator\.temperature is 0\.0; expected above 0"),
    ("temperature", float("nan"), r"calibrator\.temperature is nan; expected a number"),
    ("precision", "fp16", r"precision is 'fp16'; expected one of: fp32, bf16, fp64"),
    ("stored_image.short_side", 0, r"stored_image\.short_side is 0; expected 1 or more"),
    ("stored_image.quality", 101, r"stored_image\.quality is 101; expected 1 to 100"),
    ("stored_image.views", 9, r"stored_image\.views is 9; expected 1 to 8"),
    ("stored_image.views", 0, r"stored_image\.views is 0; expected 1 to 8"),
    ("image", None, r"image is None; expected what mode fused reads"),
    ("image.channels", 3, r"image\.channels is 3; expected one of: 1"),
    ("image.size", 8, r"image\.size is 8; expected 32 or more"),
    ("text.sections", [], r".* but data\.text_sections is empty"),
    ("seed", -1, r"seed is -1; expected 0 to 2147483647"),
    ("checkpoint_step", -1, r"checkpoint_step is -1; expected 0 or more"),
    ("manifest_sha256", "g" * 64, r"manifest_sha256 is 'ggg.*; expected 64 hex digits"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), FAULTS)
def test_the_message_names_the_invalid_field(path, value, message):
    with pytest.raises(UserError, match=f"^config.json: {message}"):
        Description.from_plain(changed(path, value))


@given(st.data(), st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()))
@settings(max_examples=150, deadline=None)
def test_any_value_in_any_field_is_either_accepted_or_a_user_error(data, value):
    plain = copy.deepcopy(json.loads(VERSION_1))
    inner = data.draw(st.sampled_from([plain, plain["architecture"], plain["stored_image"], plain["text"]]))
    inner[data.draw(st.sampled_from(sorted(inner)) | st.text())] = value
    try:
        Description.from_plain(plain)
    except UserError as error:
        message = str(error)
        assert message.startswith("config.json: "), message
