"""Malicious shards give a typed error: nothing is executed, unpickled or quoted."""

import hashlib
import pickle
import random
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
from bad_files import EPS

from benchmarks.faults.forge import forge, forge_entry, forge_index, forge_sample, member, members_of_sample
from cxr_dist.data.read import reader
from cxr_dist.data.store import ShardStore
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest, open_index
from cxr_dist.shard.verify import verify


def read_all(folder):
    """Return all training samples as the loader reads and decodes them."""
    manifest = load_manifest(folder)
    store = ShardStore(folder, manifest, "train")
    read = reader(store, manifest.image["short_side"], 64)
    return [read(shard, i) for shard, entry in enumerate(store.shards) for i in range(entry.samples)]


def noisy(height, width, *options, channels=()):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels, list(options))[1].tobytes()


def with_size(jpeg, height, width):
    """Return the JPEG with another size in its header."""
    frame = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:frame] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[frame + 4 :]


IMAGES = {
    "169 megapixels": (with_size(noisy(64, 64), 13_000, 13_000), "more pixels"),
    "400 megapixels": (with_size(noisy(64, 64), 20_000, 20_000), "more pixels"),
    "a line of 4,294 megapixels": (with_size(noisy(64, 64), 65_535, 65_535), "more pixels"),
    "colour": (noisy(64, 64, channels=(3,)), "not a grey JPEG"),
    "PNG": (cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes(), "not a grey JPEG"),
    "EPS": (EPS, "not a grey JPEG"),
    "nothing": (b"", "not a grey JPEG"),
    "a header alone": (b"\xff\xd8\xff", "not a grey JPEG"),
    "a pickle": (pickle.dumps({"SECRET": 1}), "not a grey JPEG"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_invalid_stored_image_is_reported_and_not_decoded(shards, name):
    image, reason = IMAGES[name]
    forge_sample(shards, 2, jpg=image)
    with pytest.raises(UserError, match=rf"^train-00000\.tar: sample 2 has an image .*{reason}"):
        read_all(shards)
    problems = verify(shards)
    assert any(p.startswith("train-00000.tar: 1 of ") and reason in p for p in problems)
    assert not any("sha256" in p or "crc32" in p for p in problems)


FACTS = {
    "not UTF-8": b'{"text": {"findings": "SECRET \xff\xfe"}}',
    "not JSON": b"SECRET",
    "a list": b'["SECRET"]',
    "no text": b'{"label": 0, "SECRET": 1}',
    "a number for a section": b'{"text": {"findings": 7, "SECRET": "x"}}',
    "nested a million times": b"[" * 1_000_000,
}


@pytest.mark.parametrize("name", FACTS)
def test_an_invalid_stored_json_is_reported_without_its_content(shards, name):
    forge_sample(shards, 1, json=FACTS[name])
    with pytest.raises(UserError, match=r"^train-00000\.tar: sample 1 has a JSON that is not an object") as error:
        read_all(shards)
    problems = verify(shards)
    assert any("first sample 1, has a JSON" in problem for problem in problems)
    assert "SECRET" not in str(error.value) + str(error.value.__context__) + "".join(problems)


TRAVERSALS = (
    "../outside.tar",
    "/etc/passwd",
    "pipe:touch canary",
    "a/b.tar",
    "..tar",
    ".hidden.tar",
    "x.tar\n",
)


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize("field", ["file", "index"])
def test_names_in_the_manifest_cannot_leave_the_folder(shards, field, name, monkeypatch):
    monkeypatch.chdir(shards)
    forge_entry(shards, **{field: name if field == "file" else name.replace(".tar", ".index.npy")})
    for use in (read_all, verify):
        with pytest.raises(UserError, match=r"the manifest names a file that `cxr-dist shard` does not write"):
            use(shards)
    assert not (shards / "canary").exists()


@pytest.mark.parametrize("value", [-1, 1.5, "7", True])
def test_invalid_counts_in_the_manifest_are_refused(shards, value):
    forge_entry(shards, bytes=value)
    with pytest.raises(UserError, match=r"numbers for train-00000\.tar are not counts"):
        load_manifest(shards)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", -1), ("offset", 2**62), ("size", 0), ("size", 2**31 - 1), ("jpg_offset", 0), ("jpg_size", -5),
        ("json_size", 2**31 - 1), ("group", 99), ("group", -1), ("label", 99), ("key", b"../../x"), ("key", b"=1+1"),
    ],
)  # fmt: skip
def test_an_impossible_index_is_refused_before_anything_is_read(shards, field, value):
    def change(index):
        index[field][3] = value

    forge_index(shards, change)
    with pytest.raises(UserError, match=r"train-00000\.index\.npy has a sample that cannot be in its shard"):
        read_all(shards)
    assert any("train-00000.index.npy: missing, damaged, or not" in problem for problem in verify(shards))


@pytest.mark.parametrize("place", [0, 6, 8, 10, 60, 120, 300])
@pytest.mark.parametrize("damage", [b"(((", b"'''", b"\n  (", b"{0}", b"\xff\xff"])
def test_a_damaged_header_of_an_index_is_a_typed_error(shards, place, damage):
    path = shards / "train-00000.index.npy"
    data = path.read_bytes()
    path.write_bytes(data[:place] + damage + data[place + len(damage) :])
    forge_entry(shards, index_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"train-00000\.index\.npy"):
        read_all(shards)
    assert any(problem.startswith("train-00000.index.npy: missing, damaged") for problem in verify(shards))


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (open, (self.canary, "w"))


def test_nothing_is_unpickled(shards, tmp_path):
    canary = tmp_path / "canary"
    objects = np.array([Bomb(str(canary))], dtype=object)
    forge(shards, index=objects)
    with pytest.raises(UserError, match=r"train-00000\.index\.npy is missing or damaged"):
        read_all(shards)
    assert verify(shards)
    with zipfile.ZipFile(shards / "train-00000.index.npy", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Bomb(str(canary))))
    assert any("missing, damaged" in problem for problem in verify(shards))
    assert not canary.exists()


def test_extra_members_are_found_and_never_opened(shards, tmp_path):
    tar, canary = (shards / "train-00000.tar").read_bytes(), tmp_path / "canary"
    last = open_index(shards, load_manifest(shards).split("train").shards[0], 1)[-1]
    end = int(last["offset"]) + int(last["size"])
    extra = [
        member("sample.pyd", pickle.dumps(Bomb(str(canary)))),
        member("pipe:touch canary.jpg", b"x"),
        member("../../outside.json", b"{}"),
        member("link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("device.jpg", b"", type=tarfile.CHRTYPE),
        member("huge.jpg", b"", size=2**40),
        member("x", b"1" * 700, type=tarfile.XHDTYPE),
    ]
    for block in extra:
        forge(shards, block + tar)
        with pytest.raises(UserError, match=r"sample 0 does not have|cannot be in its shard"):
            read_all(shards)  # the samples are no longer at the index's byte ranges
        assert any("train-00000.tar" in problem for problem in verify(shards))
        forge(shards, tar[:end] + block + bytes(1024))
        assert any(
            problem.startswith("train-00000.tar: ") and ("more members" in problem or "not a whole tar" in problem)
            for problem in verify(shards)
        )
    assert not canary.exists()


def test_flipped_bits_with_matching_checksums_give_a_sample_or_a_typed_error(shards):
    manifest, chance, outcomes = load_manifest(shards), random.Random(0), {"sample": 0, "error": 0}
    entry = manifest.split("train").shards[0]
    index = np.array(open_index(shards, entry, manifest.num_labels))
    image, facts = (members_of_sample(shards, 0, kind) for kind in ("jpg", "json"))
    for number in range(300):
        damaged = [bytearray(image), bytearray(facts), bytearray(index.tobytes())]
        for _ in range(chance.randrange(1, 4)):
            target = damaged[number % 3]
            target[chance.randrange(len(target))] ^= 1 << chance.randrange(8)
        try:
            forge(shards, index=np.frombuffer(bytes(damaged[2]), index.dtype))
            if number % 3 < 2:
                forge_sample(shards, 0, jpg=bytes(damaged[0]), json=bytes(damaged[1]))
            read_all(shards)
            outcomes["sample"] += 1
        except UserError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 20
