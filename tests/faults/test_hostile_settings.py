"""Settings and arguments that no command can use end in one line that names them, before anything is written."""

import pytest

COMMANDS = {
    "1e12 passes of evaluate": (("evaluate", "run", "--mc-samples", "1e12"), "--mc-samples is '1e12'"),
    "no number of passes": (("evaluate", "run", "--mc-samples", ""), "--mc-samples is ''"),
    "a section named twice": (
        ("train", "demo", "--data.text-sections", "findings", "findings"),
        "data.text_sections names a section twice: findings, findings",
    ),
    "a seed of 2^63": (("train", "demo", "--seed", str(2**63)), "seed is "),
    "half a seed": (("train", "demo", "--seed", "0.5"), "--seed is '0.5'"),
    "an infinite learning rate": (("train", "demo", "--optim.lr", "inf"), "optim.lr is inf"),
    "a learning rate of 1e999": (("train", "demo", "--optim.lr", "1e999"), "optim.lr is inf"),
    "a negative learning rate": (("train", "demo", "--optim.lr", "-1e-4"), "optim.lr is -0.0001"),
    "an image of 0 pixels": (("train", "demo", "--data.image-size", "0"), "data.image_size is 0"),
    "no micro-batch": (("train", "demo", "--data.micro-batch", "0"), "data.micro_batch is 0"),
    "a global batch below 0": (("plan", "demo", "--data.global-batch", "-16"), "data.global_batch is -16"),
    "no tokens": (("train", "demo", "--data.max-tokens", "0"), "data.max_tokens is 0"),
    "epochs below 0": (("train", "demo", "--train.epochs", "-1"), "train.epochs is -1"),
    "an escape sequence as a seed": (("train", "demo", "--seed", "\x1b[31m3"), "--seed is "),
    "an escape sequence as a command": (("\x1b[31mtrain",), "unknown command "),
    "an escape sequence as a flag": (("train", "demo", "--\x1b]0;x\x07", "3"), "unknown flag "),
    "a line break in a run's name": (("train", "demo\nfinished: run"), "unknown run "),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_it_is_refused_in_one_line(cxr_dist, tmp_path, monkeypatch, tried, kind):
    monkeypatch.chdir(tmp_path)
    arguments, message = COMMANDS[kind]
    status, out, err = cxr_dist(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert err.rstrip("\n").isprintable()
    assert len(err) < 2000
    assert not list(tmp_path.iterdir())
    tried(kind, "refused in one line")
