"""Training that is called from Python: signals are handled as on the command line, and as before afterwards."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr_dist.config.run import Config
from cxr_dist.distributed.watch.progress import start_clock
from cxr_dist.errors import UserError
from cxr_dist.model.offline import stay_offline
from cxr_dist.run.preempt import STOP_SIGNALS, StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome


def train_here(config: Config) -> Path:
    """Train or resume a run in this process and return its folder; `cxr_dist.train` documents it (all ranks)."""
    if threading.current_thread() is not threading.main_thread():
        raise UserError("training handles signals, which only the main thread of Python can: call it from there")
    stay_offline()
    start_clock()
    with _handlers_restored():
        asked_to_stop = StopRequest(config.train.max_minutes)
        outcome = train(config, asked_to_stop)
    if outcome is Outcome.STOPPED and asked_to_stop.received(signal.SIGINT):
        raise KeyboardInterrupt(f"saved in {config.run_dir}; the same call resumes")
    return config.run_dir


@contextmanager
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
