"""The classes of other shards are matched to those of the model by name or by a class map."""

import numpy as np
import pytest

from cxr_dist.errors import UserError
from cxr_dist.evaluate.class_match import match_classes, read_class_map

MODEL = ("Pneumonia", "Nodule", "Edema")


def joined(task, shards, stored, class_map=None):
    match = match_classes(task, MODEL, shards, class_map)
    return match.labels(np.array(stored, dtype=np.int16)).tolist()


def test_classes_in_another_order_keep_their_labels():
    shards = ("Edema", "Nodule", "Pneumonia")
    assert joined("multiclass", shards, [[0], [1], [2]]) == [[2], [1], [0]]
    assert joined("multilabel", shards, [[1, 0, -1]]) == [[-1, 0, 1]]


def test_a_class_that_the_shards_lack_is_not_evaluated():
    match = match_classes("multilabel", MODEL, ("Edema", "Pneumonia"))
    assert dict(match.not_evaluated) == {"Nodule": "the shards lack it: its labels are unknown"}
    assert match.labels(np.array([[1, 0]], dtype=np.int16)).tolist() == [[0, -1, 1]]
    match = match_classes("multiclass", MODEL, ("Edema", "Pneumonia"))
    assert dict(match.not_evaluated) == {"Nodule": "the shards lack it: it has no positive samples"}
    assert match.labels(np.array([[0], [1]], dtype=np.int16)).tolist() == [[2], [0]]


def test_several_classes_are_joined():
    shards = ("Viral", "Bacterial", "Nodule", "Edema")
    class_map = {"Pneumonia": ("Viral", "Bacterial")}
    assert joined("multiclass", shards, [[0], [1], [2], [3]], class_map) == [[0], [0], [1], [2]]
    pairs = {(1, 1): 1, (1, 0): 1, (1, -1): 1, (0, 0): 0, (0, -1): -1, (-1, -1): -1, (-1, 0): -1}
    stored = [[viral, bacterial, 0, 0] for viral, bacterial in pairs]
    assert [row[0] for row in joined("multilabel", shards, stored, class_map)] == list(pairs.values())


def test_ignored_classes_are_counted():
    match = match_classes("multiclass", MODEL, (*MODEL, "Fracture"), {"not evaluated": ("Fracture",)})
    stored = np.array([[3], [0], [3]], dtype=np.int16)
    assert match.labels(stored).tolist() == [[-1], [0], [-1]]
    assert match.ignored_samples(stored) == {"Fracture": 2}
    match = match_classes("multilabel", MODEL, (*MODEL, "Fracture"), {"not evaluated": ("Fracture",)})
    stored = np.array([[1, 0, -1, 1]], dtype=np.int16)
    assert match.labels(stored).tolist() == [[1, 0, -1]]
    assert match.ignored_samples(stored) == {}


def test_a_class_may_be_left_out_by_the_map():
    match = match_classes(
        "multilabel", MODEL, ("Pneumonia", "Nodule", "Edema"), {"Edema": (), "not evaluated": ("Edema",)}
    )
    assert dict(match.not_evaluated) == {
        "Edema": "the class map names no class of the shards for it: its labels are unknown"
    }


@pytest.mark.parametrize(
    ("shards", "class_map", "words"),
    [
        (("Pneumonia", "Fracture"), None, "does not know: Fracture.*Pneumonia, Nodule, Edema; those of the shards are"),
        (("Pneumonia", "Fracture"), None, "--class-map FILE.yaml.*not evaluated: .Fracture"),
        (("Edema",), {"Edema": ()}, "does not know: Edema"),
        (("Edema",), {"not evaluated": ("Edema",)}, "leaves no class to evaluate"),
        (("Edema",), {"Pneumona": ("Edema",)}, "'Pneumona', which is no class of the model .did you mean 'Pneumonia'"),
        (("Edema",), {"Edema": ("Edemas",)}, "'Edemas' under Edema.*no class of the shards .did you mean 'Edema'"),
        (("Edema",), {"Edema": ("Edema",), "Nodule": ("Edema",)}, "'Edema' twice, under Edema and under Nodule"),
    ],
)
def test_what_cannot_be_matched_is_refused(shards, class_map, words):
    with pytest.raises(UserError, match=words):
        match_classes("multilabel", MODEL, shards, class_map)


def test_a_class_map_is_read_from_yaml(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text('Pneumonia: [Pneumonia, "Pneumonia/Viral"]\nEdema: Oedema\nnot evaluated: [Fracture]\nNodule: []\n')
    assert read_class_map(path) == {
        "Pneumonia": ("Pneumonia", "Pneumonia/Viral"),
        "Edema": ("Oedema",),
        "not evaluated": ("Fracture",),
        "Nodule": (),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Edema: [A]\nEdema: [B]\n", "map.yaml is not YAML .line 2: the key 'Edema' occurs twice"),
        ("Edema: {a: b}\n", "map.yaml: Edema.* is NAME: VALUE pairs; expected"),
        ("Edema: [[A]]\n", r"map.yaml: Edema\[0\] is a list; expected text"),
        ("[Edema]\n", "map.yaml is a list; expected NAME: VALUE pairs"),
        ("null: [Edema]\n", "map.yaml is empty; expected text"),
    ],
)
def test_a_file_that_is_no_class_map_is_refused(tmp_path, text, words):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_class_map(path)
