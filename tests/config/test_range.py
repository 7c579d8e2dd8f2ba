"""Every number of the configuration, the recipe, a job and the commands has a range in its type, which is enforced."""

import dataclasses
import math
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_dist.cli import main as commands
from cxr_dist.cli.shard import shard
from cxr_dist.config.data import DataConfig
from cxr_dist.config.decode import decode
from cxr_dist.config.file import to_plain
from cxr_dist.config.flags import config_of
from cxr_dist.config.range import Range, ranges_of
from cxr_dist.config.run import Config
from cxr_dist.config.slurm import SlurmResources
from cxr_dist.errors import UserError
from cxr_dist.shard.recipe import Recipe

COMMANDS = (commands.verify, commands.evaluate, commands.compare, commands.predict, commands.export, shard)
ROOTS = (Config, SlurmResources, Recipe)
TOGETHER = {"global_batch", "micro_batch", "fusion_dim", "fusion_heads", "train", "val", "test"}
"""Fields whose values must also fit those of another field."""


def parts(hint: Any) -> list[Any]:
    """The types of a union or a tuple; a type alone is its own part."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType, tuple) else [hint]


def dataclasses_in(kind: type) -> list[type]:
    """The dataclass and all dataclasses in its fields."""
    inner = [part for hint in get_type_hints(kind).values() for part in parts(hint) if dataclasses.is_dataclass(part)]
    return [kind, *(found for each in inner for found in dataclasses_in(each))]


KINDS = list(dict.fromkeys(found for root in ROOTS for found in dataclasses_in(root)))
FIELDS = [(kind, name, bounds) for kind in KINDS for name, bounds in ranges_of(kind).items()]


@pytest.mark.parametrize("kind", [*KINDS, *COMMANDS], ids=lambda kind: kind.__name__)
def test_every_number_has_a_range(kind):
    hints = get_type_hints(kind, include_extras=True)
    numbers = {name for name, hint in hints.items() if {int, float} & set(parts(hint))}
    assert numbers - ranges_of(kind).keys() == set()


def outside(bounds: Range) -> st.SearchStrategy[float]:
    """Numbers outside of a range: not finite, an integer of more than 64 bits, or beyond one of its ends."""
    found = [st.sampled_from([math.nan, math.inf, -math.inf, 2**63, 10**400])]
    if bounds.min is not None:
        found.append(st.floats(-1e18, bounds.min, exclude_max=True))
        found.append(st.integers(-(2**62), math.ceil(bounds.min) - 1))
    if bounds.above is not None:
        found.append(st.floats(-1e18, bounds.above))
    if bounds.max is not None:
        found.append(st.floats(bounds.max, 1e18, exclude_min=True))
    if bounds.below is not None:
        found.append(st.floats(bounds.below, 1e18))
    return st.one_of(found)


def inside(bounds: Range, whole: bool) -> st.SearchStrategy[float]:
    """Numbers in a range, up to 1,000 beyond an end that is open."""
    lowest = bounds.above if bounds.min is None else bounds.min
    highest = bounds.below if bounds.max is None else bounds.max
    assert lowest is not None
    highest = lowest + 1000 if highest is None else highest
    drawn = st.integers(math.ceil(lowest), math.floor(highest)) if whole else st.floats(lowest, highest)
    return drawn.filter(lambda number: number != bounds.above and number != bounds.below)


def with_field(kind: type, name: str, number: float) -> dict[str, Any]:
    """The arguments of a dataclass in which one field is a number, or consists of it."""
    is_tuple = get_origin(get_args(get_type_hints(kind, include_extras=True)[name])[0]) is tuple
    return ({"reader": "demo"} if kind is Recipe else {}) | {name: (number, number) if is_tuple else number}


@pytest.mark.parametrize(("kind", "name", "bounds"), FIELDS, ids=lambda value: getattr(value, "__name__", str(value)))
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_number_outside_of_its_range_is_refused_and_named_and_one_inside_is_accepted(kind, name, bounds, data):
    number = data.draw(outside(bounds))
    with pytest.raises(UserError, match=rf"\b{name} is .*; expected "):
        kind(**with_field(kind, name, number))
    if name not in TOGETHER:
        number = data.draw(inside(bounds, int in parts(get_type_hints(kind)[name])))
        kind(**with_field(kind, name, number))


def test_the_message_has_field_value_and_range():
    for made, message in (
        (lambda: DataConfig(zoom=5.0), "data.zoom is 5.0; expected 0 to below 1"),
        (lambda: DataConfig(zoom=math.nan), "data.zoom is nan; expected 0 to below 1"),
        (lambda: DataConfig(workers=10**400), "data.workers is a number of too many digits; expected 0 or more"),
        (lambda: SlurmResources(minutes=-5), "slurm.minutes is -5; expected 1 or more"),
    ):
        with pytest.raises(UserError) as refused:
            made()
        assert str(refused.value) == message


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("optim", "lr", "nan"), ("optim", "weight_decay", "-1"), ("optim", "clip_norm", "-1"), ("data", "zoom", "nan"),
     ("data", "zoom", "5"), ("train", "max_minutes", "-3"), ("train", "timeout_minutes", "inf")],
)  # fmt: skip
def test_the_command_line_and_a_file_refuse_it_too(section, name, value):
    with pytest.raises(UserError, match=rf"^{section}\.{name} is {float(value):g}(\.0)?; expected "):
        config_of("demo", [f"--{section}.{name.replace('_', '-')}", value], "cxr-dist train demo")
    plain = to_plain(Config())
    plain[section][name] = float(value)
    with pytest.raises(UserError, match=rf"^config\.yaml: {section}\.{name} is "):
        decode(Config, plain, "config.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "nowhere", "--mc-samples", "-1"), "--mc-samples is -1; expected 0 to 10000"),
        (("evaluate", "nowhere", "--at-sensitivity", "nan"), "--at-sensitivity is nan; expected above 0 to 1"),
        (
            ("predict", "nowhere", "--report", "a", "--mc-samples", "20000"),
            "--mc-samples is 20000; expected 0 to 10000",
        ),
        (("predict", "nowhere", "--input", "a", "--batch", "0"), "--batch is 0; expected 1 or more"),
        (("compare", "nowhere", "--with-examples", "-1"), "--with-examples is -1; expected 0 or more"),
        (("verify", "nowhere", "--workers", "-1"), "--workers is -1; expected 0 or more"),
        (("shard", "a.yaml", "--out", "b", "--allow-left-out", "nan"), "--allow-left-out is nan; expected 0 to 1"),
    ],
)
def test_commands_refuse_numbers_outside_of_their_range_with_one_line(cxr_dist, arguments, message):
    status, out, err = cxr_dist(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"cxr-dist: {message}")
    assert err.count("\n") == 1
