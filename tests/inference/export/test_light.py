"""`cxr_dist.load` imports neither training nor distributed code, nor the libraries that only they need."""

import json
import subprocess
import sys
from collections import Counter

import pytest

USE = """
import json, sys
import cxr_dist
folder, image, report = sys.argv[1:]
model = cxr_dist.load(folder)
model.predict(image, report=report, mc_samples=3)
print(json.dumps(sorted(sys.modules)))
"""
OF_TRAINING = (
    "cxr_dist.train",
    "cxr_dist.distributed",
    "cxr_dist.report",
    "cxr_dist.cli",
    "torch.utils.tensorboard",
)
LIBRARIES = ("deepspeed", "timm", "tensorboard", "submitit", "matplotlib")


def modules_after_use(folder, image, report=""):
    """The modules of a new process after it loaded the model and made one prediction."""
    command = [sys.executable, "-c", USE, folder, image, report]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def of(names, modules):
    """The modules that are one of these packages or are inside one of them."""
    return [module for module in modules if module.startswith(tuple(f"{name}." for name in names)) or module in names]


@pytest.mark.parametrize("kind", ["exported", "run"])
def test_a_model_is_used_without_the_code_that_trained_it(request, cases_of, kind):
    """Takes several seconds, because a new process has to import torch and transformers."""
    folder = request.getfixturevalue({"exported": "exported", "run": "run_dir"}[kind])
    modules = modules_after_use(folder, *next(iter(cases_of("multiclass").values())))
    assert of((*OF_TRAINING, *LIBRARIES), modules) == []
    rooms = Counter(name.split(".")[1] for name in modules if name.count(".") > 1 and name.startswith("cxr_dist."))
    assert set(rooms) == {"config", "data", "evaluate", "format", "inference", "model", "run"}
    assert rooms["run"] == 4  # the formats of checkpoints and their meaning, of parts.json and trained_on.json
    assert rooms.total() <= 88  # a few more than there are: small modules of formats, settings and answers


def test_the_package_itself_imports_neither_accelerate_nor_large_modules_of_scipy(a_run, cases_of, tmp_path):
    """This model reads images only, because transformers, which reads reports, imports them if they are installed."""
    run = a_run(tmp_path / "run", "image", "multilabel")
    image, _ = next(iter(cases_of("multilabel").values()))
    large = ("accelerate", "transformers", "scipy.stats", "scipy.optimize")
    assert of((*large, *OF_TRAINING, *LIBRARIES), modules_after_use(run, image)) == []
