"""V4: pause-loop exits of a spin whose length is known to the nanosecond."""

from __future__ import annotations

from dataclasses import replace

from kvmgym.params import Compute, Costs, Dist, Host, Lock, LockSpec, Ple, Role, Scenario, Unlock, Vm, Workload
from kvmgym.validate import formulas
from kvmgym.validate.lab import Lab, loop
from kvmgym.validate.rows import Row, exact

SPINS_US = (5, 50, 500, 3000)
WINDOW_TENTHS, EXIT_TENTHS = 16_384, 10_000  # in 0.1 ns: 4096 cycles at 2.5 GHz, and 1 µs


def one_spin(spin_ns: int, window_ns: int, exit_ns: int, grow: int) -> Scenario:
    """Two vCPUs on two pCPUs: one holds a lock while the other spins for exactly `spin_ns`, once."""
    head = 1_000
    rest = loop(Compute(Dist.constant(10**12)))
    held = (Lock("lock"), Compute(Dist.constant(head + spin_ns), kernel_share=1.0), Unlock("lock"))
    spins = (Compute(Dist.constant(head)), Lock("lock"), Unlock("lock"))
    roles = (Role("holder", (*held, *rest)), Role("spinner", (*spins, *rest)))
    work = Workload("one-spin", "", roles, locks=(LockSpec("lock", kind="fifo"),))
    costs = replace(Costs.zero(), ple_exit_ns=exit_ns)
    host = Host(pcpus=2, costs=costs, ple=Ple(window_ns=window_ns, grow=grow))
    return Scenario("one-spin", host, (Vm("vm", 2, work, pin=(0, 1)),))


def check_exits(lab: Lab) -> list[Row]:
    """V4: exits of spins of 5 to 3000 µs, windows that double or stay, in steps of 1 ns and of 0.1 ns."""
    rows: list[Row] = []
    right = 0
    for grow, spin_us in lab.each([(grow, spin_us) for grow in (2, 1) for spin_us in SPINS_US]):
        for unit, window, step in ((1, WINDOW_TENTHS // 10, "1638 ns"), (10, WINDOW_TENTHS, "1638.4 ns")):
            cost = EXIT_TENTHS // 10 * unit
            spin = spin_us * 1000 * unit
            expected = formulas.ple_exits(spin, window, cost, grow)
            found = lab.worlds(
                one_spin(spin, window, cost, grow),
                "legacy",
                lambda result: (result.vms[0].ple_exits, result.locks[0].wait_sum_ns),
                worlds=1,
                duration_ns=spin + 100_000 * unit,
            )
            exits, spun = found[0]
            right += spun == spin
            rows.append(exact(f"exits, window {step} ×{grow}, spin {spin_us} µs", expected, exits))
    return [*rows, exact("spins of exactly that length", len(rows), right)]
