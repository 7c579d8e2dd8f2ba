"""Label values are mapped to classes by the rules of the recipe, or their rows are left out for a stated reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.errors import UserError
from cxr_dist.format.left_out import DROPPED_LABEL, NO_CLASS, NO_LABEL, TOO_RARE
from cxr_dist.shard.labels import assign_labels, sampling_groups
from cxr_dist.shard.recipe import Labels


def assign(rule: Labels, values: list[str]):
    return assign_labels(rule, (), [(value,) for value in values], values)


def test_exact_values_take_precedence_over_patterns_and_a_lone_star_comes_last():
    rule = Labels(classes={"Other": ("*",), "Covid": ("*COVID*",), "Mixed": ("COVID, ARDS",)})
    labelled = assign(rule, ["COVID", "COVID, ARDS", "Viral/COVID", "flu"])
    assert labelled.classes == ("Other", "Covid", "Mixed")
    assert labelled.labels == [(1,), (2,), (1,), (0,)]


def test_missing_dropped_rare_and_unmapped_values_are_left_out_with_a_reason():
    rule = Labels(classes={"A": ("a",), "B": ("b",)}, drop=("todo",), min_count=2)
    labelled = assign(rule, ["a", "a", "b", "b", "", "todo", "todo", "c", "c", "d"])
    assert labelled.labels[4:] == [NO_LABEL, DROPPED_LABEL, DROPPED_LABEL, NO_CLASS, NO_CLASS, TOO_RARE]


def test_without_classes_every_remaining_value_is_a_class():
    labelled = assign(Labels(min_count=2), ["b", "b", "a", "a", "c"])
    assert labelled.classes == ("a", "b")
    assert labelled.labels == [(1,), (1,), (0,), (0,), TOO_RARE]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_value_in_drop_is_no_class_when_every_remaining_value_is_one(task):
    rule = Labels(task=task, drop=("todo",), separator="|" if task == "multilabel" else None)
    labelled = assign(rule, ["b", "todo", "a"])
    assert labelled.classes == ("a", "b")
    assert labelled.labels[1] == DROPPED_LABEL


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Labels(classes={"A": ("a",), "B": ("bb",)}), "classes.B names the value 'bb', which no row has; "),
        (Labels(drop=("tod",)), "labels.drop names the value 'tod'"),
    ],
)  # fmt: skip
def test_a_value_that_no_row_has_is_refused(rule, message):
    with pytest.raises(UserError, match=message):
        assign(rule, ["a", "b", "b"])


def test_the_error_does_not_show_a_column_of_sentences():
    report = "The patient, a sailor of Genoa, has a cough that nobody else has had before him."
    with pytest.raises(UserError, match="2 different values: is it the right column") as error:
        assign(Labels(classes={"A": ("a",), "B": ("*",)}), [report, "b"])
    assert "sailor" not in str(error.value)


def test_all_values_of_a_list_are_present_and_all_others_absent():
    rule = Labels(task="multilabel", separator="|", classes={"Edema": ("edema",), "Mass": ("mass", "nodule")})
    rows = [("edema", "nodule"), ("none",), (), ("edema",)]
    labelled = assign_labels(rule, (), rows, ["edema", "nodule", "mass", "none"])
    assert labelled.labels == [(1, 1), (0, 0), NO_LABEL, (1, 0)]


@pytest.mark.parametrize(("uncertain", "value"), [("ignore", -1), ("zeros", 0), ("ones", 1)])
def test_columns_of_classes_distinguish_unknown_from_absent(uncertain, value):
    rule = Labels(task="multilabel", uncertain=uncertain)
    rows = [("1", "0"), ("1.0", "-1"), ("0", ""), ("", "")]
    labelled = assign_labels(rule, ("A", "B"), rows, [])
    assert labelled.labels == [(1, 0), (1, value), (0, -1), NO_LABEL]


def test_an_empty_cell_can_be_absent_but_an_empty_row_has_no_label():
    rule = Labels(task="multilabel", empty="zeros")
    rows = [("1", ""), ("", "-1.0"), ("", ""), ()]
    assert assign_labels(rule, ("A", "B"), rows, []).labels == [(1, 0), (0, -1), NO_LABEL, NO_LABEL]


def test_a_class_column_with_other_values_is_refused():
    with pytest.raises(UserError, match="column 'B' holds something other than 1, 0, -1"):
        assign_labels(Labels(task="multilabel"), ("A", "B"), [("1", "maybe")], [])


@given(st.lists(st.tuples(*[st.sampled_from([1, 0, -1])] * 3), min_size=1))
def test_the_sampling_group_is_the_rarest_positive_class(labels):
    positives = [sum(label[k] == 1 for label in labels) for k in range(3)]
    for label, group in zip(labels, sampling_groups(labels, 3), strict=True):
        if group == 3:
            assert 1 not in label
        else:
            assert label[group] == 1
            assert positives[group] == min(positives[k] for k in range(3) if label[k] == 1)


def test_a_row_without_any_known_label_is_left_out():
    rows = [("-1", ""), ("", ""), ("-1", "1"), ("0", "")]
    labels = [
        assign_labels(Labels(task="multilabel", uncertain=u), ("a", "b"), rows, ()).labels for u in ("ignore", "ones")
    ]
    assert labels[0] == [NO_LABEL, NO_LABEL, (-1, 1), (0, -1)]
    assert labels[1] == [(1, -1), NO_LABEL, (1, 1), (0, -1)]
