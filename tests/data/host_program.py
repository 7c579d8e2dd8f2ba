"""A program that has a child process of its own and reads shards: python host_program.py SHARDS FOLDER ENDING

ENDING is `raise` or `end`. In both cases a loader is still in use when the program ends. The program prints the
process ids of all loader workers.
"""

import multiprocessing
import signal
import sys
import time
from pathlib import Path

shards, folder, ending = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def finish(*_):
    """Handle SIGTERM in the program's own child process."""
    (folder / "finished").touch()
    sys.exit()


def work():
    signal.signal(signal.SIGTERM, finish)
    (folder / "ready").touch()
    time.sleep(600)


own = multiprocessing.get_context("fork").Process(target=work, daemon=True)
own.start()

from cxr_dist.config.data import DataConfig  # noqa: E402
from cxr_dist.data.loader import evaluation_loader  # noqa: E402
from cxr_dist.format.manifest import load_manifest  # noqa: E402


def loader():
    """A loader whose workers have started."""
    config = DataConfig(shards=str(shards), workers=2, evaluation_batch=2)
    manifest = load_manifest(shards)
    batches = evaluation_loader(config, manifest, "test", rank=0, world_size=1, tokenizer=None, with_images=False)
    next(batches)
    workers = [child for child in multiprocessing.active_children() if child is not own]
    print(*(worker.pid for worker in workers), flush=True)
    assert len(workers) == 2
    return batches


for _ in loader():  # read to the end
    pass
assert multiprocessing.active_children() == [own]
deleted = loader()
del deleted
assert multiprocessing.active_children() == [own]
in_use = loader()
while not (folder / "ready").exists():
    time.sleep(0.01)
if ending == "raise":
    raise RuntimeError("an error of the program")
