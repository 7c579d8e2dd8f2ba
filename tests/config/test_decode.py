"""Settings in a file are decoded completely, or an error names the file, the field and what is valid."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_dist.config.decode import decode, parse_json, parse_yaml
from cxr_dist.config.file import load_config, to_plain, to_yaml
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError

SECTIONS = ("data", "model", "loss", "optim", "train", "ddp")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)


def values_of(kind: Any) -> st.SearchStrategy:
    """Generate values of a field's type, many of which the dataclasses accept."""
    numbers = st.floats(0, 1, exclude_max=True) | st.floats(allow_nan=False, allow_infinity=False)
    some = {
        int: st.sampled_from([1, 2, 8, 64, 512]) | st.integers(0, 2**31),
        float: numbers,
        tuple[float, float]: st.tuples(numbers, numbers),
    }
    return some.get(kind, st.from_type(kind))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Generate the defaults with a few changed fields in every section, as far as the section accepts them."""
    config = Config(run=draw(st.text()), out=draw(st.text()), seed=draw(st.integers(0, 2**31 - 1)))
    for section in SECTIONS:
        hints = get_type_hints(type(getattr(config, section)))
        for name in draw(st.sets(st.sampled_from(sorted(hints)), max_size=4)):
            old = getattr(config, section)
            try:
                new = dataclasses.replace(old, **{name: draw(values_of(hints[name]))})
                config = dataclasses.replace(config, **{section: new})
            except UserError:
                pass
    return config


@given(configs())
@settings(max_examples=50, deadline=None)
def test_every_configuration_comes_back_from_its_yaml(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config


def outcome(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """Return the result of a call and None, or None and the message of its UserError."""
    try:
        return call(), None
    except UserError as error:
        return None, str(error)


@given(st.sampled_from([None, *SECTIONS]), st.data(), ANYTHING)
@settings(max_examples=150, deadline=None)
def test_any_value_of_a_field_is_kept_exactly_or_refused_with_the_file_named(section, data, value):
    plain = to_plain(Config())
    fields = plain if section is None else plain[section]
    fields[data.draw(st.sampled_from(sorted(fields)) | st.text())] = value
    taken, message = outcome(lambda: decode(Config, plain, "config.yaml"))
    if taken is None:
        assert message.startswith("config.yaml: ")
    elif value != {}:  # an empty section: all its fields have their defaults
        assert yaml.safe_load(to_yaml(taken)) == plain


@given(st.binary() | st.text().map(str.encode))
@settings(max_examples=150, deadline=None)
def test_any_content_of_a_file_is_parsed_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    for parse in (parse_yaml, lambda p: parse_json(p, p.name)):
        _, message = outcome(lambda parse=parse: parse(path))
        assert message is None or message.startswith("content is not ")


FAULTS = [
    (
        "model: {mode: imag}",
        r"model\.mode is 'imag'; expected one of: image, text, fused, contrastive \(did you mean 'image'\?\)",
    ),
    ("train: {epochs: 2.5}", r"train\.epochs is 2\.5; expected a whole number"),
    ("train: {epochs: true}", r"train\.epochs is True; expected a whole number"),
    ("optim: {lr: fast}", r"optim\.lr is 'fast'; expected a number, as 0\.1 or 1\.0e-4"),
    ("optim: {lr: 1e-4}", r"optim\.lr is '1e-4'; expected a number, as 0\.1 or 1\.0e-4"),
    ("optim: {lr: true}", r"optim\.lr is True; expected a number"),
    ("optim: {lr: .nan}", r"optim\.lr is nan; expected a number"),
    ("data: {stage_gib: .inf}", r"data\.stage_gib is inf; expected a number"),
    ("optim: {lr: }", r"optim\.lr is empty; expected a number"),
    ("optim: {lr: -1}", r"optim\.lr is -1\.0; expected above 0"),
    ("seed: 1" + "0" * 400, r"seed is a number of too many digits; expected a whole number"),
    ("run: 7", r"run is 7; expected text \(put it in quotes\)"),
    ("compile: 1", r"compile is 1; expected true or false"),
    (
        "data: {microbatch: 8}",
        r"unknown field data\.microbatch \(did you mean 'micro_batch'\?\); expected one of: shards, ",
    ),
    ("sead: 1", r"unknown field sead \(did you mean 'seed'\?\); expected one of: run, data, "),
    ("1: 2", r"unknown field 1; expected one of"),
    (
        "data: {micro_batch: 2.5}",
        r"data\.micro_batch is 2\.5; expected a whole number, or one of: auto$",
    ),
    (
        "data: {micro_batch: atuo}",
        r"data\.micro_batch is 'atuo'; .* \(did you mean 'auto'\?\)",
    ),
    ("data: {text_sections: findings}", r"data\.text_sections is 'findings'; expected a list"),
    ("data: {text_sections: [findings, 1]}", r"data\.text_sections\[1\] is 1; expected text"),
    ("model: {head_dropout: [0.5]}", r"model\.head_dropout is a list of 1; expected a list of 2"),
    ("model: {head_dropout: [0.5, x]}", r"model\.head_dropout\[1\] is 'x'; expected a number"),
    ("model: fused", r"model is 'fused'; expected the fields mode, image_encoder"),
    ("model: {mode: {a: 1}}", r"model\.mode is NAME: VALUE pairs; expected one of: image"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[text[:30] for text, _ in FAULTS])
def test_an_error_names_the_file_the_field_and_what_was_expected(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^config\.yaml: {message}"):
        load_config(path)


# Each line is a list of ten references to the line before: 10^20 words when expanded.
LAUGHS = b"\n".join([b"- &a0 [ha]", *(b"- &a%d [%s]" % (i + 1, b",".join([b"*a%d" % i] * 10)) for i in range(20))])
LAUGHS = b"run:\n" + LAUGHS + b"\n"
BROKEN = [
    (b"", r"is empty; expected the fields run, data"),
    (b"- run\n- seed\n", r"is a list; expected the fields run, data"),
    (b"seed: 1\nmodel: [\n", r"is not YAML \(line \d+: .*\)"),
    (b"seed: 1\nrun: a\nseed: 2\n", r"is not YAML \(line 3: the key 'seed' occurs twice\)"),
    (b"model:\n  mode: text\n  mode: image\n", r"is not YAML \(line 3: the key 'mode' occurs twice\)"),
    (b"run: 2024-13-01\n", r"is not YAML \(month must be in 1..12\)"),
    (b"run: !!python/name:os.system x\n", r"is not YAML \(line 1: could not determine a constructor"),
    ("run: Größe".encode("latin-1"), r"is not UTF-8 text \(byte 7\)"),
    (b"[" * 20_000, r"is nested too deeply"),
    (LAUGHS, r": run is a list; expected text"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN, ids=[message[:30] for _, message in BROKEN])
def test_a_broken_file_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^config\.yaml ?{message}"):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": {"c": 1, "c": 2}}', r"is not JSON \(the key 'c' occurs twice\)"),
        (b'{"a": 1,\n', r"is not JSON \(.*line 2"),
        (b"[" * 20_000, "is nested too deeply"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_broken_json_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^config\.json of the model {message}"):
        parse_json(path, "config.json of the model")


def test_a_file_that_cannot_be_read_is_named_without_its_folder(tmp_path):
    with pytest.raises(UserError, match=r"^nowhere\.yaml cannot be read \(No such file"):
        parse_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("optim: {lr: 1}", lambda c: c.optim.lr == 1.0 and type(c.optim.lr) is float),
        ("model: {gradient_checkpointing: true}", lambda c: c.model.gradient_checkpointing == "text"),
        ("model: {gradient_checkpointing: image}", lambda c: c.model.gradient_checkpointing == "image"),
        ("data: {micro_batch: auto}", lambda c: c.data.micro_batch == "auto"),
        ("model: &m {mode: text}\n", lambda c: c.model.mode == "text" and c.seed == Config().seed),
        ("{}", lambda c: c == Config()),
    ],
)
def test_older_and_incomplete_files_can_still_be_read(tmp_path, text, found):
    (tmp_path / "config.yaml").write_text(text)
    assert found(load_config(tmp_path / "config.yaml"))
