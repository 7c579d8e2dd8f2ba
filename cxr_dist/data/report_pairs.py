"""Draws of image–report pairs for contrastive pretraining: one image of a study, and some sentences of its report.

What is drawn is a function of the draw's key (plan.augmentation_key), as the augmentation is. Hashes tell which reports
have the same text, so that text itself need not leave the loader.
"""

import hashlib
import re
from collections.abc import Iterator

import numpy as np

from cxr_dist.data.own_stages import Stage
from cxr_dist.data.random import hash64, permutation
from cxr_dist.data.read import SampleDict
from cxr_dist.data.text import report_text
from cxr_dist.format.stored_sample import image_names

_VIEW, _SENTENCES = 21, 22  # first words of the hash keys
_END = re.compile(r"(?<=[.;!?])\s+|\n+")


def drawn_pairs(sections: tuple[str, ...], sentences: int) -> Stage:
    """The stage that leaves one image and `sentences` sentences (0: all) of the sections in each training sample."""

    def stage(batches: Iterator[list[SampleDict]]) -> Iterator[list[SampleDict]]:
        for samples in batches:
            yield [drawn_pair(sample, sections, sentences) for sample in samples]

    return stage


def drawn_pair(sample: SampleDict, sections: tuple[str, ...], sentences: int) -> SampleDict:
    """The sample with one of its images, as "jpg", and the drawn sentences as its only section.

    "report_ids" are the hashes of the whole text of the sections and of the drawn sentences.
    """
    key, names = sample["augmentation_key"], image_names(sample)
    image = sample[names[int(hash64(_VIEW, key) % np.uint64(len(names)))]]
    whole = report_text(sample["json"], sections)
    text = drawn_sentences(whole, sentences, int(key))
    rest = {name: value for name, value in sample.items() if name not in names}
    return rest | {
        "jpg": image,
        "json": sample["json"] | {"text": {sections[0]: text}},
        "report_ids": (report_id(whole), report_id(text)),
    }


def drawn_sentences(text: str, number: int, key: int) -> str:
    """`number` sentences of a text in their order, drawn by a key; the whole text if it has no more, or for 0."""
    found = sentences_of(text)
    if number == 0 or len(found) <= number:
        return text
    return " ".join(found[i] for i in sorted(permutation(len(found), _SENTENCES, key)[:number]))


def sentences_of(text: str) -> list[str]:
    """The sentences of a report, which end with one of . ; ! ? before a space, or at the end of a line.

    Pieces without a letter, such as the numbers of a list, are left out.
    """
    pieces = (piece.strip() for piece in _END.split(text))
    return [piece for piece in pieces if any(map(str.isalpha, piece))]


def report_id(text: str) -> int:
    """A hash of a text, 1 to 2^63 - 1, which is the same in every process; 0 for one without a letter or a digit."""
    if not any(map(str.isalnum, text)):
        return 0
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) or 1
