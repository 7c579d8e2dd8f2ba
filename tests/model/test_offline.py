"""Training, evaluation and prediction do not use the network. An audit hook sees every connection of the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForMaskedLM

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]

# Runs the commands in argv[1] (JSON) one after another in one process and prints the observed events as the last line.
WATCHED = """
import json, socket, sys

seen = []
EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")
sys.addaudithook(lambda event, values: event in EVENTS and seen.append(event))

from cxr_dist.cli.main import main

for command in json.loads(sys.argv[1]):
    sys.argv = ["cxr-dist", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
asked = list(seen)
import huggingface_hub.constants
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1).close()
except OSError:
    pass
print(json.dumps({"asked": asked, "hub_offline": huggingface_hub.constants.HF_HUB_OFFLINE, "works": len(seen)}))
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A weights bundle with the text encoder group/small-bert in the published form."""
    folder = tmp_path / "bundle" / "group" / "small-bert"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path / "bundle"


def test_no_command_of_a_run_uses_the_network(tiny_shards: Path, bundle: Path, tmp_path: Path) -> None:
    flags = "--data.global-batch 8 --data.micro-batch 8 --data.image-size 64 --data.max-tokens 16 --data.workers 0"
    flags += " --train.max-steps 1 --model.text-encoder group/small-bert --model.pretrained true"
    out, image = tmp_path / "run", tmp_path / "image.png"
    Image.fromarray(np.full((80, 80), 90, np.uint8)).save(image)
    paths = ["--data.shards", tiny_shards, "--model.weights", bundle, "--out", out]
    commands = [
        ["train", "demo", *flags.split(), *map(str, paths)],
        ["evaluate", str(out), "--mc-samples", "2"],
        ["predict", str(out), "--image", str(image), "--report", "FINDINGS: abc", "--mc-samples", "2"],
    ]
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(commands)],
        env=environment | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"},  # the command must override this
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    observed = json.loads(done.stdout.splitlines()[-1])
    assert observed["asked"] == []
    assert observed["hub_offline"] is True
    assert observed["works"] >= 1, "the hook must see a connection that is made"
    assert (out / "evaluation" / "test" / "metrics.json").is_file()
