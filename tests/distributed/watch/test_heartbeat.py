"""What one end of a watchdog's connection sends reaches the other, however the sender ends."""

import socket
import threading
import time

from cxr_dist.distributed.watch.heartbeat import Hub, Spoke, to_message
from cxr_dist.distributed.watch.process import this_process
from cxr_dist.distributed.watch.verdict import Beat, Verdict


def test_rank_0_waits_until_a_failed_rank_has_read_the_verdict():
    hub = Hub(2)
    spoke = Spoke(socket.create_connection(("localhost", hub.port)), 1, hub.secret)
    beat = Beat(process=this_process(), step=3, phase="forward", entered=7, idle_seconds=0.0, waits=False)
    spoke.send({"beat": to_message(beat), "state": "failed", "note": "RuntimeError"})
    while hub.members[0].state != "failed":
        hub.poll(0.01)

    def read_late():
        time.sleep(0.3)
        spoke.poll(1.0)
        spoke.close()

    reader = threading.Thread(target=read_late)
    reader.start()
    hub.send({"verdict": to_message(Verdict(culprits=(2,), text="rank 2 left"))})
    hub.see_off()
    hub.close()
    verdict_in_time = spoke.verdict
    reader.join()
    assert verdict_in_time is not None
    assert verdict_in_time.culprits == (2,)
