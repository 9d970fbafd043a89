import subprocess
import sys

import pytest

from benchmarks.clock import now

WORKS = """
import sys, time
while time.process_time() < 0.1:
    pass
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of children that still run")
def test_processor_time_includes_running_and_finished_children():
    before = now()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKS], **pipes) as child:
        assert child.stdout.readline() == "done\n"
        running = now().since(before)
        child.communicate("end\n")
    assert running.cpu_s > 0.08
    assert now().since(before).cpu_s >= running.cpu_s - 0.02  # counted in steps of 10 ms
