"""A run of contrastive pretraining is a zero-shot classifier of images, and its evaluation and page show both."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import write_other_shards

from cxr_dist.config.named import named_run
from cxr_dist.evaluate.retrieval import Embedded, retrieve
from cxr_dist.inference.opened import open_trained
from cxr_dist.inference.retrieval_block import retrieval_block
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome

PROMPTS = {
    "Normal": ["The lungs are clear."],
    "Cardiomegaly": ["The heart is enlarged.", "Cardiomegaly."],
    "Effusion": ["There is a pleural effusion."],
    "Opacity": ["There is an opacity."],
    "Nodule": ["There is a <b>nodule</b>."],
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on shards with prompts."""
    folder, run = tmp_path_factory.mktemp("zero"), named_run("demo-pretrain")
    text = json.dumps({name: {"present": sentences} for name, sentences in PROMPTS.items()})
    shards = write_other_shards(folder, "shard: {samples: 13}\n", f"shard: {{samples: 13}}\nprompts: {text}\n")
    small = {"global_batch": 16, "micro_batch": 4, "image_size": 64, "max_tokens": 32, "shards": str(shards)}
    config = dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, **small),
        train=dataclasses.replace(run.train, max_steps=3),
        out=str(folder / "reads"),
    )
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    return folder / "reads"


def test_logits_are_similarities_to_the_prompts(pretrained: Path) -> None:
    opened = open_trained(pretrained, torch.device("cpu"))
    assert opened.config.model.mode == "image"
    own = opened.pretrained
    images = torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = []
        for name in opened.classes:
            tokens, mask = own.tokenizer(PROMPTS[name])
            rows = own.network(images[:1].expand(len(tokens), -1, -1, -1), tokens, mask)
            mean = torch.nn.functional.normalize(rows[:, 64:128].mean(0), dim=0)
            expected.append(mean)
        tokens, mask = own.tokenizer(["any"] * 3)
        embedded = own.network(images, tokens, mask)
        scale = embedded[0, -1].exp()
        logits = opened.classifier(images)
    torch.testing.assert_close(logits, scale * embedded[:, :64] @ torch.stack(expected).T, rtol=1e-4, atol=1e-4)


def test_evaluation_and_page_show_zero_shot_and_retrieval(pretrained: Path, tmp_path: Path, cxr_dist) -> None:
    """Takes more than five seconds: it evaluates both splits and compares."""
    status, out, err = cxr_dist("evaluate", pretrained, "--mc-samples", 0)
    assert status == 0, err
    assert "Retrieval: recall at 1, 5, 10 of 27 images for their reports" in out
    metrics = json.loads((pretrained / "evaluation/test/metrics.json").read_text())
    assert metrics["mode"] == "image"
    assert metrics["text_sections"] == []
    assert metrics["intervals"]["macro"]["roc_auc"]["low"] is not None
    assert metrics["zero_shot"]["prompts_from"] == "recipe"
    assert metrics["zero_shot"]["prompts"]["Cardiomegaly"]["present"] == PROMPTS["Cardiomegaly"]
    found = metrics["retrieval"]["report_to_image"]["recall_at_5"]
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1

    status, _, err = cxr_dist("compare", pretrained, "--out", tmp_path / "page", "--controls", "false")
    assert status == 0, err
    page = (tmp_path / "page/report.html").read_text()
    assert "Zero-shot classification and retrieval" in page
    assert "There is a &lt;b&gt;nodule&lt;/b&gt;." in page
    assert "symmetric InfoNCE" in page
    assert "Validation mean recall" in page


def test_it_is_not_exported(pretrained: Path, tmp_path: Path, cxr_dist) -> None:
    status, _, err = cxr_dist("export", pretrained, "--out", tmp_path / "model")
    assert status == 2
    assert "has no classification head to export: train a classifier with --model.init-from" in " ".join(err.split())


def test_intervals_of_recall_are_over_patients() -> None:
    """Of ten patients, each has four equal queries; one hit in ten patients has the interval of ten, not of forty."""
    random = np.random.default_rng(0)
    images = random.normal(size=(40, 3))
    reports = images.copy()
    reports[4:] = random.normal(size=(36, 3))
    ids = np.arange(1, 41)
    found = retrieve(Embedded(images=images, reports=reports, report_ids=ids))
    by_patient = retrieval_block(found, [str(i // 4) for i in range(40)])["image_to_report"]["recall_at_10"]
    by_query = retrieval_block(found, [str(i) for i in range(40)])["image_to_report"]["recall_at_10"]
    assert by_patient["value"] == by_query["value"]
    assert by_patient["low"] <= by_patient["value"] <= by_patient["high"]
