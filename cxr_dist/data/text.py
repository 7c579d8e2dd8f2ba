"""Select the sections of a report, and tokenize reports with the tokenizer that all ranks share.

`prepare_text_folder` (rank 0, once per run) writes config.json and the tokenizer to RUN_DIR/text_encoder, so that
evaluation needs neither the weights bundle nor the network. Report text is kept in memory only.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from cxr_dist.config.run import Config
from cxr_dist.errors import UserError, out_of_files, require

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
_CACHED_WORDS = 100_000  # about 15 MB, enough for the different words in the reports of a large hospital
PAD_MULTIPLE = 16  # gives few distinct shapes, with sizes that suit tensor cores

# The text encoder `tiny`: a BERT that is small enough to train on two CPU cores.
_TINY_BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}


def report_text(sample: dict[str, Any], sections: tuple[str, ...]) -> str:
    """The given sections of a sample's JSON in the given order, without those that are missing."""
    return " ".join(text for name in sections if (text := sample["text"].get(name)))


@dataclass(frozen=True, kw_only=True)
class ReportWord:
    """A word as it is written in a report, and the positions of its tokens in the row of token ids."""

    text: str
    tokens: tuple[int, ...]


class ReportTokenizer:
    """A Hugging Face fast tokenizer from a local folder, which turns reports into padded tensors of token ids.

    BERT's tokenizers split text at spaces first, so that the ids of a word do not depend on its neighbours. They are
    computed once per word and cached.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        from transformers import AutoTokenizer  # slow to import, and not needed by image-only runs

        # Without these files, transformers would make a tokenizer with an empty vocabulary.
        require(
            any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")),
            f"{folder} has neither tokenizer.json nor vocab.txt: copy the whole folder again",
        )
        try:
            loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            padding_id = int(loaded.pad_token_id)
        except Exception as error:  # the library raises exceptions of its own types, and plain ones
            raise out_of_files(error) or UserError(
                f"the tokenizer in {folder} cannot be read ({type(error).__name__}): copy its files again"
            ) from None
        self._tokenizer: Tokenizer = loaded.backend_tokenizer
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        self._max_tokens, self._padding_id = max_tokens, padding_id
        self._unknown_id: int | None = loaded.unk_token_id
        self._ends: list[int] = self._tokenizer.encode("").ids
        bert = isinstance(self._tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        self._whole_words = bert and len(self._ends) == 2
        self._ids_of_word: dict[str, list[int]] = {}

    def __call__(self, reports: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, int64 [b, T]. T is the longest report's length, rounded up to 16."""
        encoded = [self._encode(report) for report in reports]
        longest = max(map(len, encoded), default=0)
        width = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
        tokens = np.full((len(reports), width), self._padding_id, dtype=np.int64)
        mask = np.zeros_like(tokens)
        for row, ids in enumerate(encoded):
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def _encode(self, report: str) -> list[int]:
        """The ids of a report including special tokens, truncated to `max_tokens`."""
        if not self._whole_words:
            return list(self._tokenizer.encode(report).ids)
        ids = [self._ends[0]]
        for word in report.split(" "):
            known = self._ids_of_word.get(word)
            ids += self._encode_word(word) if known is None else known
        return [*ids[: self._max_tokens - 1], self._ends[1]]

    def _encode_word(self, word: str) -> list[int]:
        ids = list(self._tokenizer.encode(word, add_special_tokens=False).ids)
        if len(self._ids_of_word) < _CACHED_WORDS:
            self._ids_of_word[word] = ids
        return ids

    def unknown_share(self, report: str) -> float:
        """The share of a report's tokens that are [UNK], without special tokens and what is cut off; 0 if it is empty.

        It is 0 for a tokenizer that has no such token.
        """
        ids = self._encode(report)
        return ids.count(self._unknown_id) / max(len(ids) - len(self._ends), 1) if self._unknown_id is not None else 0.0

    def words(self, report: str) -> tuple[list[ReportWord], int]:
        """The words of a report that the text encoder reads, in order, and the number of words that are cut off.

        Special tokens and padding belong to no word. A word counts as read if one of its tokens is.
        """
        encoded = self._tokenizer.encode(report)
        tokens: dict[int, list[int]] = {}
        for position, word in enumerate(encoded.word_ids):
            if word is not None:
                tokens.setdefault(word, []).append(position)
        words = []
        for positions in tokens.values():
            start, end = encoded.offsets[positions[0]][0], encoded.offsets[positions[-1]][1]
            words.append(ReportWord(text=report[start:end].strip(), tokens=tuple(positions)))
        rest = {word for part in encoded.overflowing for word in part.word_ids if word is not None}
        return words, len(rest - tokens.keys())


def tokenizer_of(config: Config, folder: Path) -> ReportTokenizer | None:
    """The tokenizer of a run folder or an exported folder, or None for a model that does not read reports."""
    if not config.model.uses_text:
        return None
    return ReportTokenizer(folder / "text_encoder", config.data.max_tokens)


def learn_wordpiece(reports: Iterable[str], size: int = 2000, min_reports: int = 20) -> Tokenizer:
    """A lower-case WordPiece tokenizer of single characters and the words that occur in most reports.

    The library's own trainer breaks ties by hash order, so its vocabulary differs from run to run. Sorting by (count,
    word) always gives the same vocabulary for the same reports. A word in fewer than `min_reports` reports, for example
    a name, is split into characters and is not written to the file.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update({word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(report))})
    characters = sorted({c for word in counts for c in word})
    words = sorted((word for word, n in counts.items() if n >= min_reports), key=lambda w: (-counts[w], w))
    pieces = [*_SPECIAL, *characters, *("##" + c for c in characters), *words]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces[:size]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def prepare_text_folder(folder: Path, source: Path | None, reports: Iterator[str]) -> None:
    """Write config.json and the tokenizer to `folder`: copied from `source`, or made from `reports` if that is None.

    Does nothing if the folder is complete. It gets its name only when it is complete.
    """
    if (folder / "config.json").is_file():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if source is None:
        tokenizer = learn_wordpiece(reports)
        tokenizer.save(str(partial / "tokenizer.json"))
        names = {f"{t.strip('[]').lower()}_token": t for t in _SPECIAL}
        settings = {"tokenizer_class": "BertTokenizerFast", "do_lower_case": True} | names
        (partial / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
        config = _TINY_BERT | {"vocab_size": tokenizer.get_vocab_size()}
        (partial / "config.json").write_text(json.dumps(config, indent=1))
    else:
        if not (source / "config.json").is_file():
            raise UserError("the text encoder's folder has no config.json: expected a Hugging Face model folder")
        for name in ("config.json", *_TOKENIZER_FILES):
            if (source / name).is_file():
                shutil.copyfile(source / name, partial / name)
    partial.rename(folder)
