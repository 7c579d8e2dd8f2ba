"""The functions of `import cxr_dist`: their docstrings' examples, their types, and that importing them is cheap."""

import doctest
import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

import cxr_dist
from cxr_dist.config.named import named_run
from cxr_dist.errors import UserError

FUNCTIONS = ("open_shards", "train", "evaluate", "compare", "load", "metrics")


def run_python(*arguments, cwd):
    """Run Python on this checkout in another process and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(cxr_dist.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_in_the_docstrings_give_what_they_say(tiny_shards, tmp_path, monkeypatch):
    # More than five seconds: the examples train a run and evaluate it.
    (tmp_path / "SHARDS").symlink_to(tiny_shards)
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 255, (80, 90), np.uint8))
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    parser, said = doctest.DocTestParser(), []
    for name in FUNCTIONS:
        function = getattr(cxr_dist, name)
        example = parser.get_doctest(inspect.getdoc(inspect.unwrap(function)), {"cxr_dist": cxr_dist}, name, None, None)
        assert example.examples, f"{name} has no example"
        runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    code = "import cxr_dist, sys; print(*{name.split('.')[0] for name in sys.modules})"
    heavy = {"torch", "numpy", "pandas", "tyro", "yaml", "PIL"}
    assert not heavy & set(run_python("-c", code, cwd=tmp_path).split())


def test_evaluate_takes_what_the_command_takes():
    from cxr_dist.cli.evaluate import evaluate as command

    of_the_command = set(inspect.signature(command).parameters) - {"run_dir", "ensemble", "out"}
    assert set(inspect.signature(cxr_dist.evaluate).parameters) - {"run"} == of_the_command


def test_a_function_stays_callable_after_the_room_of_its_name_was_imported():
    import cxr_dist.evaluate.metrics
    import cxr_dist.train.schedule

    for name in ("train", "evaluate"):
        room = getattr(cxr_dist, name)
        assert isinstance(room, types.ModuleType)
        assert callable(room)
        assert next(iter(inspect.signature(room).parameters)) in ("config", "run")
    with pytest.raises(UserError, match=r"no config\.yaml in nowhere"):
        cxr_dist.evaluate("nowhere")


def test_runs_change_any_setting_and_refuse_wrong_ones():
    config = cxr_dist.runs.enhanced(shards=Path("S"), out="O", seed=3, data__text_sections=["findings"], optim__lr=1e-3)
    assert (config.data.shards, config.out, config.seed, config.optim.lr) == ("S", "O", 3, 1e-3)
    assert config.data.text_sections == ("findings",)
    assert config.model == named_run("enhanced").model
    for name in ("baseline", "enhanced", "demo", "demo_baseline"):
        assert getattr(cxr_dist.runs, name)() == named_run(name.replace("_", "-"))
    for wrong, message in (
        (
            {"train__epoch": 1},
            r"there is no setting train__epoch \(did you mean 'epochs'\?\); expected one of train__",
        ),
        ({"trian__epochs": 1}, r"unknown section of settings 'trian' \(did you mean 'train'\?\)"),
        ({"train__epochs": "many"}, "train.epochs is 'many'; expected a whole number"),
        ({"train__epochs": 0}, "train.epochs is 0; expected 1 or more"),
        ({"data": 1}, "there is no setting data"),
    ):
        with pytest.raises(UserError, match=message):
            cxr_dist.runs.demo(**wrong)


USER = """
from pathlib import Path
import cxr_dist

run: Path = cxr_dist.train(cxr_dist.runs.demo(shards="SHARDS", train__epochs=1))
auc: float | None = cxr_dist.evaluate(run)["metrics"]["macro"]["roc_auc"]
cxr_dist.load(run).predict("image.png", report="FINDINGS: clear", heat_map=True)
batches: int = len(cxr_dist.open_shards("SHARDS").loader("train"))
cxr_dist.open_shards("SHARDS").loader("train", batch=3)
"""


def test_a_type_checker_knows_the_functions(tmp_path):
    # More than five seconds: mypy reads the package.
    (tmp_path / "user.py").write_text(USER)
    environment = os.environ | {"MYPYPATH": str(Path(cxr_dist.__file__).parents[1])}
    settings = Path(cxr_dist.__file__).parents[1] / "pyproject.toml"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(settings), "user.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert 'Unexpected keyword argument "batch" for "loader"' in errors[0]


def test_the_example_of_ones_own_training_loop_runs_without_private_names(tiny_shards, tmp_path):
    # More than five seconds: it imports torch and trains for three epochs.
    example = Path(__file__).resolve().parents[1] / "examples" / "own_training_loop" / "loop.py"
    assert "._" not in example.read_text()
    printed = run_python(example, tiny_shards, cwd=tmp_path)
    assert "epoch 3, " in printed
    assert not list(tmp_path.iterdir())
