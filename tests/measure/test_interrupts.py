"""Ctrl-C ends long compiled runs, and threads work in a forked child. Timeouts are for safety only."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from kvmgym.threads import interrupts_kept

SAFETY_S = 200  # a child may compile

INTERRUPTED = """
import os, signal, threading
import numpy as np
import kvmgym
from kvmgym import DirectedYieldEnv, DirectedYieldVectorEnv, Scenario, Vm, Host, Workload
from kvmgym.params import Block, Compute, Dist, Ops, Role
from kvmgym.scenarios import BY_NAME
LONG = 10**15
signal.signal(signal.SIGINT, signal.default_int_handler)  # where a script began it in the background it is ignored
early = Workload("early", "", (Role("main", (Compute(Dist.exponential(1_000)), Ops())),))
idle = Scenario("idle", Host(pcpus=2), (Vm("a", 2, early),))  # never a decision

over = threading.Event()

def interrupt():  # again and again, as somebody at a terminal would: one that comes while numba loads code can be lost
    while not over.wait(1.0):
        os.kill(os.getpid(), signal.SIGINT)

kvmgym.simulate("dedup-small", "relaxed", duration_ns=1000, warmup_ns=0)  # nothing is left to compile
first = DirectedYieldVectorEnv(2, 'dedup-small')
first.reset(seed=0)
first.step(np.array([4, 4]))
{prepare}
threading.Thread(target=interrupt, daemon=True).start()
try:
    {call}
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    over.set()
    print("interrupted", flush=True)
"""
CALLS = {
    "simulate": ("pass", 'kvmgym.simulate("dedup-small", "relaxed", duration_ns=LONG - 1, warmup_ns=1)'),
    "simulate on threads": (
        "pass",
        'kvmgym.simulate_batch(idle, "relaxed", seeds=[1, 2, 3], duration_ns=LONG - 1, warmup_ns=1, threads=2)',
    ),
    "reset": ("env = DirectedYieldEnv(idle, duration_ns=LONG)", "env.reset(seed=0)"),
    "step": (
        "env = DirectedYieldVectorEnv(2, 'dedup-small', controlled=[0], duration_ns=20_000_000); env.reset(seed=0)\n"
        "env.worlds.rows[:, 0] = LONG; env.worlds.rows[:, 1] = 0",  # no VM is controlled from here on
        "env.step(np.array([4, 4]))",
    ),
    "step on threads": (
        "env = DirectedYieldVectorEnv(2, 'dedup-small', threads=2); env.reset(seed=0)\n"
        "env.worlds.rows[:, 0] = LONG; env.worlds.rows[:, 1] = 0",
        "env.step(np.array([4, 4]))",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_ends_a_long_run(name):
    prepare, call = CALLS[name]
    code = INTERRUPTED.format(prepare=prepare, call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SAFETY_S)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


FORKED = """
import os, signal, sys
import numpy as np
from kvmgym import DirectedYieldVectorEnv, simulate_batch
signal.alarm({safety})
MS = 10**6
env = DirectedYieldVectorEnv(4, "dedup-small", threads=2)
env.reset(seed=0)
env.step(np.full(4, 4))
run = lambda: [r.events for r in simulate_batch("dedup-small", "relaxed", seeds=[0, 1], duration_ns=MS, warmup_ns=0,
                                                threads=2)]
saved, own = env.snapshot(), run()
child = os.fork()
if child == 0:
    signal.alarm({safety})
    rewards = env.step(np.full(4, 4))[1]
    np.save({path!r}, rewards)
    env.close()
    os._exit(0 if run() == own else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert np.load({path!r}).tolist() == env.step(np.full(4, 4))[1].tolist()
print("same")
"""


def test_threads_work_in_a_forked_child(tmp_path):
    code = FORKED.format(safety=SAFETY_S, path=str(tmp_path / "rewards.npy"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SAFETY_S)
    assert (done.stdout, done.returncode) == ("same\n", 0), done.stderr


def test_an_interrupt_that_others_swallow_is_raised_again():
    """As ctypes callbacks of numba do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), interrupts_kept(), suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with interrupts_kept():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
