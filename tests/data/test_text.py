"""Reports become token ids: chosen sections in order, padding to a multiple of 16, a reproducible vocabulary."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertTokenizerFast

from cxr_dist.data.text import ReportTokenizer, learn_wordpiece, prepare_text_folder, report_text
from cxr_dist.errors import UserError

REPORTS = [
    "Heart size is normal. No effusion.",
    "Left pleural effusion, heart enlarged.",
    "Lungs are clear.",
] * 30


def test_sections_come_in_the_requested_order_and_missing_ones_are_skipped():
    sample = {"text": {"findings": "clear lungs", "impression": "normal", "indication": ""}}
    assert report_text(sample, ("impression", "comparison", "indication", "findings")) == "normal clear lungs"
    assert report_text(sample, ("comparison",)) == ""


def test_the_vocabulary_does_not_depend_on_the_order_of_reports_and_leaves_rare_words_out(tmp_path):
    vocabulary = learn_wordpiece([*REPORTS, "Mrs Featherstonehaugh"]).get_vocab()
    shuffled = [*REPORTS, "Mrs Featherstonehaugh"]
    random.Random(1).shuffle(shuffled)
    assert learn_wordpiece(shuffled).get_vocab() == vocabulary
    assert "effusion" in vocabulary
    assert not [word for word in vocabulary if "feather" in word]


@pytest.fixture
def folder(tmp_path):
    prepare_text_folder(tmp_path / "text_encoder", None, iter(REPORTS))
    return tmp_path / "text_encoder"


def test_ids_are_those_of_a_bert_tokenizer_padded_to_sixteen(folder):
    tokens, mask = ReportTokenizer(folder, max_tokens=32)(["No effusion.", "Heart size is normal. " * 20, ""])
    assert tokens.shape == mask.shape == (3, 32)
    reference = BertTokenizerFast.from_pretrained(folder)
    for row, keep, text in zip(tokens, mask, ["No effusion.", "Heart size is normal. " * 20, ""], strict=True):
        ids = reference(text, truncation=True, max_length=32)["input_ids"]
        assert row[keep.bool()].tolist() == ids
        assert torch.equal(row[~keep.bool()], torch.zeros(32 - len(ids), dtype=torch.int64))
    short, _ = ReportTokenizer(folder, max_tokens=32)(["clear", ""])
    assert short.shape == (2, 16)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("aA. ,\t\n-[]MSK")), max_size=60),
    cased=st.booleans(),
)
def test_cached_words_give_the_ids_of_the_library_for_any_text(tokenizers_by_case, text, cased):
    folder, tokenizer = tokenizers_by_case[cased]
    tokens, mask = tokenizer([text, "[MASK] Heart-size  is normal."])
    reference = BertTokenizerFast.from_pretrained(folder)
    for row, keep, report in zip(tokens, mask, [text, "[MASK] Heart-size  is normal."], strict=True):
        assert row[keep.bool()].tolist() == reference(report, truncation=True, max_length=24)["input_ids"]


@pytest.fixture(scope="module")
def tokenizers_by_case(tmp_path_factory):
    """A tokenizer that lower-cases and strips accents, like that of `tiny`, and one that does not."""
    tokenizers = {}
    for cased in (False, True):
        folder = tmp_path_factory.mktemp("case") / "text_encoder"
        prepare_text_folder(folder, None, iter(REPORTS))
        if cased:
            plain = json.loads((folder / "tokenizer.json").read_text())
            plain["normalizer"] |= {"lowercase": False, "strip_accents": False}
            (folder / "tokenizer.json").write_text(json.dumps(plain))
            settings_file = folder / "tokenizer_config.json"
            settings_file.write_text(json.dumps(json.loads(settings_file.read_text()) | {"do_lower_case": False}))
        tokenizers[cased] = folder, ReportTokenizer(folder, max_tokens=24)
    return tokenizers


def test_a_tokenizer_of_another_kind_is_not_given_single_words(folder):
    """For a tokenizer such as byte-level BPE, the ids of a word depend on the space before it."""
    plain = json.loads((folder / "tokenizer.json").read_text())
    plain["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "_",
        "prepend_scheme": "always",
        "split": True,
    }
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    tokens, mask = ReportTokenizer(folder, max_tokens=32)(["heart size", "size"])
    reference = AutoTokenizer.from_pretrained(folder)
    for row, keep, report in zip(tokens, mask, ["heart size", "size"], strict=True):
        assert row[keep.bool()].tolist() == reference(report)["input_ids"]


def test_a_folder_without_config_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(UserError, match=r"has no config.json: expected a Hugging Face model folder"):
        prepare_text_folder(tmp_path / "text_encoder", tmp_path / "source", iter(()))
    assert not (tmp_path / "text_encoder").exists()


def test_words_are_spelt_as_in_the_report_and_each_ordinary_token_belongs_to_one(folder):
    tokenizer = ReportTokenizer(folder, max_tokens=64)
    words, cut = tokenizer.words("Élevated hearts, no Effusion.")
    assert [word.text for word in words] == ["Élevated", "hearts", ",", "no", "Effusion", "."]
    assert cut == 0
    assert [len(word.tokens) for word in words] == [1, 2, 1, 1, 1, 1]  # [UNK]; heart and ##s
    _, mask = tokenizer(["Élevated hearts, no Effusion."])
    positions = [position for word in words for position in word.tokens]
    assert positions == list(range(1, int(mask.sum()) - 1))  # [CLS] and [SEP] belong to no word


def test_words_that_are_cut_off_are_counted(folder):
    words, cut = ReportTokenizer(folder, max_tokens=8).words("Heart size is normal. " * 4)
    assert [word.text for word in words] == ["Heart", "size", "is", "normal", ".", "Heart"]
    assert cut == 4 * 5 - 6
    assert ReportTokenizer(folder, max_tokens=8).words("") == ([], 0)


def test_padding_and_truncation_in_the_file_of_a_tokenizer_have_no_effect(folder):
    reports = ["clear", "Heart size is normal.", ""]
    tokens, mask = ReportTokenizer(folder, max_tokens=32)(reports)
    words = ReportTokenizer(folder, max_tokens=32).words("Heart size is normal.")
    path = folder / "tokenizer.json"
    own = Tokenizer.from_file(str(path))
    own.enable_padding(length=24, pad_id=own.token_to_id("[PAD]"), pad_token="[PAD]")
    own.enable_truncation(4)
    own.save(str(path))
    assert len(Tokenizer.from_file(str(path)).encode("clear").ids) == 24
    tokenizer = ReportTokenizer(folder, max_tokens=32)
    for found, expected in zip(tokenizer(reports), (tokens, mask), strict=True):
        assert torch.equal(found, expected)
    assert tokenizer.words("Heart size is normal.") == words
