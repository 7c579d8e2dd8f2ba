"""What a user types wrong: one line that names it, what was expected and the nearest, exit status 2, before torch."""

import subprocess
import sys

import pytest

from cxr_dist.config.data import DataConfig
from cxr_dist.config.file import to_yaml
from cxr_dist.config.flags import config_of
from cxr_dist.config.named import named_run
from cxr_dist.errors import UserError


@pytest.fixture
def line(cxr_dist, tmp_path, monkeypatch):
    """line(command) -> the only line that a refused command prints, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> str:
        status, out, err = cxr_dist(*command.split())
        assert (status, out, err.count("\n")) == (2, "", 1), (status, out, err)
        assert not list(tmp_path.iterdir())
        return err

    return run


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "unknown command 'trian' (did you mean 'train'?)"),
        ("train demo --optim.lrr 3", "unknown flag '--optim.lrr' (did you mean '--optim.lr'?)"),
        ("train demo --optim.lrr=3", "unknown flag '--optim.lrr' (did you mean '--optim.lr'?)"),
        ("train demo --lr 3", "unknown flag '--lr' (did you mean '--optim.lr'?)"),
        ("plan demo --global-batch 3", "unknown flag '--global-batch' (did you mean '--data.global-batch'?)"),
        ("evaluate x --mc-sampels 3", "unknown flag '--mc-sampels' (did you mean '--mc-samples'?)"),
        ("shard x --out y --slurm-partitio z", "(did you mean '--slurm.partition'?)"),
        ("train demo --seed abc", "--seed is 'abc'; expected a whole number"),
        ("train demo --optim.lr abc", "--optim.lr is 'abc'; expected a number, such as 0.1 or 1e-4"),
        ("train demo --seed", "--seed needs a value"),
        ("train demo --model.mode fuse", "--model.mode is 'fuse' (did you mean 'fused'?); expected one of: image, "),
        ("train demo --compile maybe", "--compile is 'maybe'; expected one of: true, false"),
        ("train demo --data.workers -1", "cxr-dist: data.workers is -1; expected 0 or more\n"),
        ("train demo --seed -3", "cxr-dist: seed is -3; expected 0 to 2147483647\n"),
        ("train demo extra", "train demo takes no further argument 'extra'"),
        ("train --seed 3 demo", "train expects a run before '--seed': one of baseline, enhanced"),
        ("shard", "shard needs RECIPE and --out DIR, for example: cxr-dist shard openi --source"),
        ("verify", "verify needs SHARDS, for example: cxr-dist verify data/shards"),
        ("evaluate", "evaluate needs RUN_DIR, for example: cxr-dist evaluate runs/enhanced"),
        ("compare", "compare needs RUN_DIR …, for example: cxr-dist compare runs/baseline"),
        ("predict", "predict needs RUN_DIR, for example: cxr-dist predict runs/enhanced --image"),
        ("export", "export needs RUN_DIR, for example: cxr-dist export runs/enhanced"),
        ("train --config", "--config needs a value"),
        ("--verison", "unknown command '--verison' (did you mean '--version'?)"),
        ("predict run --no-report yes", "--no-report takes no value: give it alone, or leave it out"),
        ("evaluate run --audit=yes", "--audit takes no value: give it alone, or leave it out"),
        (
            "submit demo --node 2",
            "unknown flag '--node' (did you mean '--nodes'?); `cxr-dist submit demo --help` lists",
        ),
        ("submit demo --slurm.nods 2", "unknown flag '--slurm.nods' (did you mean '--nodes'?)"),
        ("submit --nodes 2 demo", "submit expects a run before '--nodes': one of baseline, enhanced"),
        ("submit status", "submit status needs OUT, for example: cxr-dist submit status runs/sweep"),
        ("train --config nope.yaml", "no file nope.yaml: expected YAML with settings"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(line, command, message):
    assert message in line(command)


def test_words_of_a_report_without_quotes_are_not_repeated(line):
    for command in (
        "predict run --repot Featherstonehaugh",
        "predict run --report The Featherstonehaugh",
        "predict run --mc-samples 3 --report Small Featherstonehaugh --no-report",
    ):
        assert "Featherstonehaugh" not in line(command)


WITHOUT_TORCH = """
import sys
from cxr_dist.cli.ending import status_after
from cxr_dist.cli.main import _dispatch
status = status_after(lambda: _dispatch(sys.argv[1:]))
assert not {"torch", "numpy"} & set(sys.modules)
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate nope", "no config.yaml in nope: that is not a run folder"),
        ("evaluate run --shards nope", "no manifest.json in nope: expected a folder that `cxr-dist shard` finished"),
        ("evaluate run --ensemble nope --out new", "no config.yaml in nope"),
        ("evaluate runn", "that is not a run folder (did you mean 'run' in .?)"),
        ("export nope", "no config.yaml in nope"),
        ("compare nope", "the run folder nope does not exist"),
        ("predict nope --image nope.png", "no model in nope: expected a folder that `cxr-dist train` or "),
        ("predict run --image nope.png", "--image nope.png does not exist: expected a PNG, JPEG or DICOM image"),
        ("predict run --image imag.png", "(did you mean 'image.png' in .?)"),
        ("predict run --input nope", "--input nope does not exist: expected a folder of images, or a .csv"),
        ("train demo", "no shards are given: add --data.shards SHARDS"),
        ("train demo --data.shards nope", "no manifest.json in nope: expected a folder that `cxr-dist shard` finished"),
        ("plan demo --data.shards nope", "no manifest.json in nope"),
        ("verify nope", "no manifest.json in nope"),
        (
            "shard nope.yaml --out new",
            "no recipe nope.yaml: expected a YAML file, or the name of a recipe of the package",
        ),
        ("shard run/config.yaml --source nope --out new", "--source nope does not exist"),
        ("train demo --data.shards shards --out image.png", "--out image.png is a file: expected a folder"),
        ("export run --out image.png", "--out image.png is a file: expected a folder"),
        ("compare run --out image.png", "--out image.png is a file: expected a folder"),
        ("compare run --split vall", "run has no evaluation 'vall': expected one of test, or run `cxr-dist evaluate"),
        ("compare run --split tset", "run has no evaluation 'tset' (did you mean 'test'?)"),
        ("train run", "'run' is not the name of a run; to start from its configuration: --config run/config.yaml"),
    ],
)
def test_a_path_is_checked_before_torch_is_imported(tmp_path, command, message):
    for folder in ("run/evaluation/test", "shards"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "evaluation" / "test" / "metrics.json").write_text("{}")
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    (tmp_path / "run" / "config.yaml").write_text("run: demo\n")
    (tmp_path / "image.png").write_bytes(b"")
    call = [sys.executable, "-c", WITHOUT_TORCH, *command.split()]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("submit demo", "no shards are given: add --data.shards SHARDS"),
        ("submit demo --data.shards nope", "no manifest.json in nope"),
        ("submit demo --nodes two", "--nodes is 'two'; expected a whole number"),
    ],
)
def test_submit_finds_a_mistake_before_torch_is_imported(tmp_path, command, message):
    """numpy is there, because submitit imports it."""
    call = [sys.executable, "-c", WITHOUT_TORCH.replace(', "numpy"', ""), *command.split()]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr


def test_submit_without_arguments_shows_its_help_and_fails_as_train_does(cxr_dist):
    for command in ("submit", "train"):
        status, out, _ = cxr_dist(command)
        assert (status, f"usage: cxr-dist {command} RUN" in out) == (2, True)


def test_help_is_also_a_command(cxr_dist):
    assert cxr_dist("help") == cxr_dist("--help")
    assert cxr_dist("help", "verify") == cxr_dist("verify", "--help")


def test_help_fits_narrow_terminals_and_has_no_python_in_it(cxr_dist, monkeypatch):
    commands = ("shard", "verify", "fetch", "evaluate", "compare", "predict", "export", "train demo", "plan demo")
    commands += ("recipes", "init", "submit", "submit status")
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, cxr_dist("recipes")[1].splitlines())) <= columns
        for command in ("", "train", "plan", "doctor", *commands):
            status, out, _ = cxr_dist(*command.split(), "--help")
            assert status == 0
            assert max(map(len, out.splitlines())) <= columns, command
            assert not [word for word in ("{None}", "None", "True", "False", "''", "(default: )") if word in out]
            if command:
                assert "For example: cxr-dist " in out
    for command in ("train", "plan", "doctor"):
        assert f"cxr-dist {command} RUN --help lists all flags." in " ".join(cxr_dist(command, "--help")[1].split())


def test_paragraphs_of_help_are_wrapped_once(cxr_dist, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = cxr_dist("train", "demo", "--help")
    start = out.index("Compile the training forward")
    lines = [each.strip("│ ") for each in out[start:].splitlines()[:3]]
    assert min(map(len, lines[:2])) > 60, lines  # a line that ends early was wrapped at another width before


def test_the_version_is_printed(cxr_dist):
    status, out, _ = cxr_dist("--version")
    assert (status, out.split()[0], out.count("\n")) == (0, "cxr-dist", 1)


def test_a_run_starts_from_a_file_and_flags_take_precedence(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("run: enhanced\ndata: {image_size: 64, text_sections: findings}\noptim: {lr: 0.25}\n")
    config = config_of(None, ["--optim.lr", "0.5", "--config", str(file)], "cxr-dist train")
    enhanced = named_run("enhanced")
    assert (config.data.image_size, config.data.text_sections) == (64, ("findings",))
    assert config.optim.lr == 0.5
    assert config.optim.weight_decay == enhanced.optim.weight_decay
    assert config.model == enhanced.model
    assert config_of("enhanced", [f"--config={file}"], "cxr-dist train").optim.lr == 0.25


def test_the_configuration_of_a_run_starts_the_same_run(tmp_path):
    config = config_of("baseline", ["--seed", "7", "--data.shards", "s", "--out", "o"], "cxr-dist train")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert config_of(None, ["--config", str(tmp_path / "config.yaml")], "cxr-dist train") == config


@pytest.mark.parametrize(
    ("content", "run", "message"),
    [
        ("seed: 3\n", None, "mine.yaml does not say from which named run to start: add `run: enhanced`"),
        ("run: demo\n", "enhanced", "mine.yaml has settings of run 'demo', but 'enhanced' was named"),
        ("run: demo\noptim: {lrr: 3}\n", None, r"mine.yaml: unknown field optim.lrr \(did you mean 'lr'\?\)"),
        ("run: demo\nseed: many\n", None, "mine.yaml: seed is 'many'; expected a whole number"),
        ("run: demo\nseed: -1\n", None, "mine.yaml: seed is -1; expected 0 to 2147483647"),
        ("- demo\n", None, "mine.yaml: expected settings, such as `run: enhanced`"),
        ("run: [\n", None, "mine.yaml is not YAML"),
        ("run: {a: b}\n", None, "mine.yaml: run is NAME: VALUE pairs; expected text"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, run, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        config_of(run, ["--config", str(tmp_path / "mine.yaml")], "cxr-dist train")


def test_defaults_in_help_are_those_of_the_named_run(cxr_dist, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = cxr_dist("train", "demo", "--help")
    assert f"(default: {named_run('demo').data.image_size})" in out
    assert named_run("demo").data.image_size != DataConfig().image_size
