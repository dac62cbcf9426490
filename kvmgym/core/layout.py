"""The world as data: every record, every field, its unit and its writer. One buffer of bytes a world.

A world is two rows of bytes: `state` (changes as time passes; a snapshot is a copy of it) and `static` (the scenario's
tables, shared by all worlds of the scenario). core/memory.py lays the record arrays below over the two rows. The same
arrays serve compiled and interpreted code, the documentation and the trace columns.

Indices: P pCPUs, G VMs (host tasks count as VMs of one vCPU each, marked is_task), V vCPUs of all VMs, L locks,
N leaves of the event tree (a power of two, at least P + V). A scheduling entity is a vCPU (0 .. V-1) or the group of
a VM on a pCPU (V + g*P + p). A run queue is a pCPU's root (0 .. P-1) or a group's (P + g*P + p).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvmgym.codes import numbered

INF: Any = np.int64(1 << 62)  # "never", in ns
NONE: Any = np.int64(-1)  # no vCPU, entity, queue or lock
NO, YES = numbered(2)

# vCPU states as the host sees them
BLOCKED, READY, RUNNING = numbered(3)
# what a vCPU's guest is doing
ACT_COMPUTE, ACT_SEND, ACT_SPIN_LOCK, ACT_SPIN_ACK, ACT_SPIN_BARRIER, ACT_HALT = numbered(6)
# phase kinds of a guest program
(PH_COMPUTE, PH_LOCK, PH_UNLOCK, PH_SHOOTDOWN, PH_KICK, PH_BLOCK, PH_BARRIER, PH_PUT, PH_GET, PH_OPS, PH_CHOOSE,
 PH_REPEAT, PH_AGAIN) = numbered(13)  # fmt: skip
# vectors, as far as tracking tells them apart
VECTOR_CALL, VECTOR_RESCHED, VECTOR_TIMER = numbered(3, first=1)
# what a policy is shown besides the records (bits of host.shows)
SHOW_LAG, SHOW_GUEST = np.int64(1), np.int64(2)
# states of a guest task that its vCPU's guest schedules
TASK_CURRENT, TASK_RUNNABLE, TASK_WAITS = numbered(3)
POLLS, POLL_ENDS = numbered(2, first=1)  # a halted vCPU polls; it is to stop at once
LINE = 64  # bytes of a cache line
WEIGHTS = 16  # numbers that a tunable policy may read
# results of yield_to
YIELD_ESRCH, YIELD_FREE, YIELD_OK = numbered(3, first=-1)
# why engine.advance returned; GOING_ON: its steps are used up, call it again
AT_TIME, AT_DECISION, AT_DEADLOCK, GOING_ON = numbered(4)
# latency histograms of a VM: 4 linear steps an octave, from 1 ns to 2^33 ns
HIST_IPI, HIST_LOCK, HIST_SHOOTDOWN = numbered(3)
HISTS, HIST_OCTAVES, HIST_STEPS = 3, 32, 4
HIST_BINS = HIST_OCTAVES * HIST_STEPS

# kinds of trace rows, and what the argument of each is: a pCPU, a vCPU, a lock, a time, a count, a yield (four times
# the target and the result + 1) or nothing
(TR_RUN, TR_PREEMPT, TR_BLOCK, TR_WAKE, TR_PLE, TR_YIELD, TR_LOCK, TR_WAIT, TR_UNLOCK, TR_SEND, TR_IRQ, TR_ACK, TR_OPS,
 TR_TICK, TR_MIGRATE, TR_NO_TARGET) = numbered(16)  # fmt: skip
TRACE_KINDS: tuple[tuple[str, str], ...] = (
    ("run", "pcpu"), ("preempt", "pcpu"), ("block", "pcpu"), ("wake", "pcpu"), ("PLE", "ns"), ("yield_to", "yield"),
    ("lock", "lock"), ("wait", "lock"), ("unlock", "lock"), ("send", "vcpu"), ("irq", ""), ("ack", "vcpu"),
    ("ops", "count"), ("tick", ""), ("migrate", "pcpu"), ("no target", ""),
)  # fmt: skip
TRACE_NAMES = tuple(name for name, _ in TRACE_KINDS)

Field = tuple[str, str, str]
WINDOW = "; window"  # the end of the text of a counter that a measured window resets


def meaning(field: Field) -> tuple[str, str, bool]:
    """What a field means, who writes it, and whether it is a counter of the measured window."""
    text, _, writer = field[2].removesuffix(WINDOW).rpartition("; ")
    return text, writer, field[2].endswith(WINDOW)


def record(fields: list[Field], line: int = 8) -> np.dtype[Any]:
    """The aligned record dtype of a field table; its size is a multiple of `line` bytes."""
    plain = np.dtype([(name, kind) for name, kind, _ in fields], align=True)
    offsets = [plain.fields[name][1] for name, _, _ in fields]  # type: ignore[index]
    size = -(-plain.itemsize // line) * line
    formats = [kind for _, kind, _ in fields]
    names = [name for name, _, _ in fields]
    padded = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size}, align=True)
    return np.dtype((np.record, padded))


# Each entry: name, type, "meaning [unit]; writer". A counter of the measured window says so at its end, "; window": its
# reset sets it to 0 (memory.clearing, account.reset).
PARAM_FIELDS: list[Field] = [
    ("pcpus", "i8", "P; build"),
    ("vcpus", "i8", "V; build"),
    ("vms", "i8", "G; build"),
    ("locks", "i8", "L; build"),
    ("gates", "i8", "queues and barriers; build"),
    ("leaves", "i8", "N, leaves of the event tree; build"),
    ("trace_cap", "i8", "rows of the trace, 0 for none; build"),
    ("pend_words", "i8", "32-bit words in a row of the IPI bit matrices; build"),
    ("affin_words", "i8", "32-bit words in a vCPU's row of allowed pCPUs; build"),
    ("tick_ns", "i8", "period of the scheduler tick [ns]; build"),
    ("slice_ns", "i8", "base slice [ns]; build"),
    ("unit_ns", "i8", "what every time is a multiple of in a scaled scenario, else 1 [ns]; build"),
    ("exit_ns", "i8", "VM exit and entry [ns]; build"),
    ("ple_exit_ns", "i8", "pause-loop exit that finds no target [ns]; build"),
    ("scan_ns", "i8", "the same, for each other vCPU of the VM [ns]; build"),
    ("yield_ns", "i8", "successful yield_to, on the yielder's pCPU [ns]; build"),
    ("yield_target_ns", "i8", "successful yield_to, on the target's pCPU [ns]; build"),
    ("ipi_ns", "i8", "sending an IPI to one vCPU [ns]; build"),
    ("broadcast_physical_ns", "i8", "a target of a mask sent as unicasts [ns]; build"),
    ("broadcast_ns", "i8", "a target of a mask sent as a multicast or hypercall [ns]; build"),
    ("irq_handler_ns", "i8", "guest interrupt handler [ns]; build"),
    ("switch_ns", "i8", "switching a pCPU to another vCPU [ns]; build"),
    ("halt_ns", "i8", "halt, block and wake, charged when the vCPU next runs [ns]; build"),
    ("wake_ns", "i8", "the part of it until an idle pCPU picks a woken vCPU [ns]; build"),
    ("rewarm_q16", "i8", "most of the time away that re-warming the cache may cost, in 1/65536; build"),
    ("ipi_apicv_ns", "i8", "sending an IPI to one vCPU with IPI virtualisation [ns]; build"),
    ("pv_flush_ns", "i8", "TLB flush left as a flag, at the entry of a vCPU [ns]; build"),
    ("guest_switch_ns", "i8", "guest's switch to another task [ns]; build"),
    ("poll_max_ns", "i8", "longest halt poll, 0 without polling [ns]; build"),
    ("poll_grow_start_ns", "i8", "halt poll interval that growth starts from [ns]; build"),
    ("poll_grow", "i8", "factor of growth of the halt poll interval; build"),
    ("poll_shrink", "i8", "its divisor, 0 resets it to 0; build"),
    ("lag_credit_q16", "i8", "v3's lag credit in slices for each other queued entity, in 1/65536; build"),
    ("yield_deboost", "i8", "DEBOOST_*; build"),
    ("ple_kernel_mode", "i8", "MODE_*: yield_to_kernel_mode of a spin exit; build"),
    ("tasks", "i8", "guest tasks of VMs that schedule; build"),
    ("ple_window_ns", "i8", "base pause-loop window [ns]; build"),
    ("ple_max_ns", "i8", "largest window [ns]; build"),
    ("ple_grow", "i8", "factor of growth a pause-loop exit, 0 or 1 keep the window; build"),
    ("ple_shrink", "i8", "divisor when loaded again, 0 resets to the base; build"),
    ("balance_interval_ns", "i8", "period of load balancing a pCPU [ns]; build"),
    ("migration_cost_ns", "i8", "a vCPU that ran within this time is cache-hot and not pulled [ns]; build"),
    ("llc_pcpus", "i8", "how many pCPUs a load balance looks at; build"),
    ("scheduler", "i8", "SCHED_*; build"),
    ("latency_ns", "i8", "CFS: sched_latency [ns]; build"),
    ("min_granularity_ns", "i8", "CFS: shortest slice [ns]; build"),
    ("wakeup_granularity_ns", "i8", "CFS: how far behind a wakee must be to preempt [ns]; build"),
    ("forfeit", "i8", "FORFEIT_*; build"),
    ("one_slice", "u1", "every entity requests the base slice: nobody looks for the longest or shortest; build"),
    ("ple_enabled", "u1", "pause-loop exiting is on; build"),
    ("ple_user_exits", "u1", "spins in user mode exit too; build"),
    ("ple_names_holder", "u1", "a spin for a lock names its holder; build"),
    ("group_scheduling", "u1", "VMs are scheduling groups (two levels); build"),
    ("run_to_parity", "u1", "RUN_TO_PARITY; build"),
    ("place_lag", "u1", "PLACE_LAG; build"),
    ("delay_dequeue", "u1", "DELAY_DEQUEUE with DELAY_ZERO; build"),
    ("wakeup_preemption", "u1", "WAKEUP_PREEMPTION; build"),
    ("preempt_short", "u1", "PREEMPT_SHORT; build"),
    ("lag_credit_across", "u1", "v3's credit reaches targets on other pCPUs; build"),
    ("charge_before_wakeup", "u1", "what runs is charged before the wakeup of a delayed task is judged; build"),
    ("alt_period", "u1", "CFS: ALT_PERIOD and BASE_SLICE; build"),
    ("pick_buddy", "u1", "PICK_BUDDY; build"),
    ("next_buddy", "u1", "NEXT_BUDDY; build"),
    ("balance", "u1", "newidle and periodic balance are on; build"),
]

HOST_FIELDS: list[Field] = [
    ("now_ns", "i8", "simulated time [ns]; engine"),
    ("events", "i8", "changes of a vCPU's or pCPU's state so far; all verbs; window"),
    ("decisions", "i8", "spin exits that asked a policy; engine; window"),
    ("trace_len", "i8", "rows traced so far, also those past the end; account.note"),
    ("window_since_ns", "i8", "start of the measured window [ns]; account.reset"),
    ("deadlock_vm", "i8", "VM in which nobody can go on, or NONE; guest"),
    ("resched_head", "i8", "first pCPU that must reschedule, or NONE; sched"),
    ("resched_tail", "i8", "last one; sched"),
    ("idle_head", "i8", "pCPU that went idle last, or NONE; sched"),
    ("idle_nr", "i8", "idle pCPUs; sched"),
    ("empty_nr", "i8", "pCPUs without a vCPU: the idle ones and those that wake up; sched"),
    ("idle_since_ns", "i8", "idle_ns is summed up to here [ns]; sched"),
    ("idle_ns", "i8", "time that pCPUs had no vCPU since the start, all together [ns]; sched"),
    ("spin_ns", "i8", "time that vCPUs spun since the start, counted when a stretch ends [ns]; account"),
    ("overhead_ns", "i8", "time in host work since the start, counted when it begins [ns]; account"),
    ("shows", "i8", "SHOW_*: what the policy is shown at each attempt; set with the policy"),
]

ASK_FIELDS: list[Field] = [
    ("now_ns", "i8", "time of the spin exit [ns]; kvm"),
    ("serial", "i8", "number of the spin exit; kvm"),
    ("vm", "i8", "VM of the spinner; kvm"),
    ("me", "i8", "index in its VM of the spinner; kvm"),
    ("attempt", "i8", "attempts made so far in this exit; kvm"),
    ("last_result", "i8", "result of the last attempt: 1, 0 or -1 (-ESRCH); 0 before the first; kvm"),
    ("tries", "i8", "tries left, 3 at first; each -ESRCH costs one; kvm"),
    ("scan_round", "i8", "round that the policy is in, for the counters; policy"),
    ("start", "i8", "first candidate of the round; policy"),
    ("cursor", "i8", "how many candidates of the round were visited; policy"),
    ("mark", "i8", "what last_boosted_vcpu becomes on success; NONE: the target; policy"),
    ("waits_for", "i8", "index of the vCPU that the spinner truly waits for, or NONE, for privileged policies; shown"),
    ("yield_to_kernel_mode", "u1", "the caller wants preempted-in-kernel targets; kvm"),
    ("open", "u1", "an answer is awaited; kvm"),
    ("weights", f"{WEIGHTS}f8", "weights of a tunable policy; set with the policy"),
]  # fmt: skip

# PCPU, RQ, SE, VM, VCPU and LOCK are in the order of use: a record is whole cache lines of 64 bytes, and what is needed
# together shares one. A batch meets each world with cold caches, so that lines touched are what a step costs.
PCPU_FIELDS: list[Field] = [
    ("ev_ns", "i8", "when its guest changes next [ns]; engine"),
    ("next_tick_ns", "i8", "next scheduler tick, INF when idle [ns]; sched"),
    ("exec_start_ns", "i8", "vruntimes are charged up to here [ns]; fair"),
    ("carry_ns", "i8", "host work that delays the vCPU that runs next [ns]; sched"),
    ("curr", "i8", "vCPU on it, or NONE; engine"),
    ("nr_running", "i8", "queued tasks: running, ready and delayed; fair"),
    ("nr_ready", "i8", "ready vCPUs waiting in its queues; account"),
    ("migrations", "u4", "vCPUs pulled here; sched; window"),
    ("need_resched", "u1", "is in the list of pCPUs that must reschedule; sched"),
    ("idle", "u1", "is in the list of idle pCPUs; sched"),
    # line 2
    ("curr_since_ns", "i8", "when its vCPU or idleness began [ns]; engine"),
    ("used_ns", "i8", "time with a vCPU on it, host work included [ns]; account; window"),
    ("overhead_ns", "i8", "time in exits, switches and other host work [ns]; account; window"),
    ("ready_since_ns", "i8", "ready_integral_ns is summed up to here [ns]; account"),
    ("ready_integral_ns", "i8", "integral of nr_ready over time [ns]; account; window"),
    ("switches", "i8", "vCPU switches; engine; window"),
    ("last_vm", "i8", "VM that ran last; engine"),
    ("resched_next", "i8", "next in the list of pCPUs that must reschedule; sched"),
    # line 3
    ("tick_offset_ns", "i8", "phase of its ticks [ns]; build"),
    ("next_balance_ns", "i8", "next periodic balance [ns]; sched"),
    ("idle_ns", "i8", "time idle [ns]; account; window"),
    ("idle_next", "i8", "next idle pCPU; sched"),
    ("idle_prev", "i8", "previous idle pCPU; sched"),
    ("deboosted_ns", "i8", "when the debooster last acted here [ns]; deboost"),
    ("pair_ns", "i8", "when the pair below yielded [ns]; deboost"),
    ("pair_from", "i4", "vCPU that yielded last under the debooster, or NONE; deboost"),
    ("pair_to", "i4", "the vCPU that it yielded to, or NONE; deboost"),
    # line 4
    ("credited_ns", "i8", "when v3's credit last came here from another pCPU [ns]; deboost"),
]

RQ_FIELDS: list[Field] = [
    (
        "zero_vruntime_ns",
        "i8",
        "where moment counts from; EEVDF: V when it was last empty, moved on now and then; CFS: min_vruntime "
        "[ns at weight 1024]; fair",
    ),
    ("moment", "i8", "sum over its entities of weight times (vruntime - zero_vruntime) [weight x ns]; fair"),
    ("load", "i8", "sum of their weights; fair"),
    ("last_ran_ns", "i8", "group: when a vCPU of it last left this pCPU [ns]; engine"),
    ("head", "i4", "first queued entity; fair"),
    ("curr", "i4", "entity that runs, or NONE; fair"),
    ("next_buddy", "i4", "entity that yield_to named, or NONE; fair"),
    ("last_buddy", "i4", "CFS: entity that a wakeup preempted last in a long queue, or NONE; fair"),
    ("skip_buddy", "i4", "CFS: entity that yielded, or NONE; fair"),
    ("nr", "i4", "queued entities, the current and delayed ones included; fair"),
    ("nr_runnable", "i4", "vCPUs below it that want to run; fair"),
]

SE_FIELDS: list[Field] = [
    ("vruntime_ns", "i8", "virtual runtime [ns at weight 1024]; fair"),
    ("deadline_ns", "i8", "virtual deadline; relative while rel_deadline is set [same]; eevdf"),
    ("vlag_ns", "i8", "V - vruntime when last dequeued [same]; eevdf"),
    (
        "vprot_ns",
        "i8",
        "slice-protected until vruntime reaches this [same]; CFS: time run since it was picked [ns]; fair",
    ),
    ("weight", "i8", "1024 is nice 0; fair"),
    ("rq", "i8", "queue that it is on or was on last; fair"),
    ("next", "i4", "next entity of the queue; fair"),
    ("prev", "i4", "previous entity of the queue; fair"),
    ("on_rq", "u1", "is queued; fair"),
    ("delayed", "u1", "sched_delayed: sleeps, but stays queued until eligible; eevdf"),
    ("rel_deadline", "u1", "deadline_ns is relative to vruntime_ns; CFS: vruntime_ns to min_vruntime; fair"),
]

ENTITY_FIELDS: list[Field] = [
    ("slice_ns", "i8", "requested slice [ns]; build"),
    ("order", "i8", "label that breaks ties; build"),
]

VM_FIELDS: list[Field] = [
    # line 1: what is read of every VM, and what a policy reads
    ("first", "i8", "its first vCPU; build"),
    ("vcpus", "i8", "how many vCPUs it has; build"),
    ("last_boosted_vcpu", "i8", "where the next scan starts, less one; kvm"),
    ("nr_runnable", "i8", "vCPUs that want to run; fair"),
    ("run_ns", "i8", "time of its vCPUs on pCPUs since the start, counted when they leave [ns]; account"),
    ("ops", "i8", "operations finished; guest; window"),
    ("shares", "i8", "cpu weight of the VM's group; build"),
    ("is_task", "u1", "a host task: one entity in the root queue, no guest below; build"),
    ("ipi_tracking", "u1", "TRACK_*; build"),
    ("enable_relaxed_boost", "u1", "the relaxed round may run; build"),
    ("apicv", "u1", "interrupts are virtualised: hints, and no IPI tracking; build"),
    ("sev_es", "u1", "the host cannot see the guest's ring; build"),
    ("ipi_mode", "u1", "X2APIC_PHYSICAL, X2APIC_CLUSTER or PV; build"),
    ("bursty", "u1", "the workload has bursts; build"),
    ("pv_tlb_flush", "u1", "shootdowns leave a flag for vCPUs that do not run; build"),
    # line 2: spin exits and switches
    ("load_x1024", "i8", "decayed average of nr_runnable, times 1024; fair"),
    ("load_period", "i8", "load_x1024 is up to date to this period of 2^20 ns; fair"),
    ("ipi_window_ns", "i8", "age up to which an IPI counts as recent [ns]; build"),
    ("ple_exits", "i8", "pause-loop exits; engine; window"),
    ("yields_attempted", "i8", "yield_to calls in round 1; kvm; window"),
    ("yields_ok", "i8", "of these, successful; kvm; window"),
    ("preemptions", "i8", "vCPUs descheduled while still runnable; kvm; window"),
    ("rewarm_ns", "i8", "refilling the caches with its working set [ns]; build"),
    # line 3: phases of the guests
    ("locks", "i8", "its first lock; build"),
    ("gates", "i8", "its first queue or barrier; build"),
    ("nr_waiting", "i8", "vCPUs that only another vCPU can release; guest"),
    ("burst_hi_q16", "i8", "factor on a bursty stretch within a burst, in 1/65536; build"),
    ("burst_lo_q16", "i8", "the same outside bursts; build"),
    ("burst_dist", "i8", "distribution of the length of a burst or pause; build"),
    ("lock_acquires", "i8", "spin locks taken; guest; window"),
    ("shootdowns_sent", "i8", "synchronous IPIs begun; guest; window"),
    # the rest
    ("tasks", "i8", "guest tasks, 0 when each vCPU has one; build"),
    ("first_task", "i8", "its first guest task; build"),
    ("pv_sched_yield", "u1", "an IPI to several is followed by a yield to a preempted one; build"),
    ("pv_kick_yields", "u1", "the kick of a halted lock waiter is a directed yield; build"),
    ("pv_spin_ns", "i8", "how long a pvq waiter spins before it halts [ns]; build"),
    ("yields_esrch", "i8", "of these, -ESRCH; kvm; window"),
    ("relaxed_attempted", "i8", "yield_to calls in round 2; kvm; window"),
    ("relaxed_ok", "i8", "of these, successful; kvm; window"),
    ("relaxed_esrch", "i8", "of these, -ESRCH; kvm; window"),
    ("named_attempted", "i8", "yield_to calls of hypercalls that name their target; kvm; window"),
    ("named_ok", "i8", "of these, successful; kvm; window"),
    ("polls", "i8", "halts that polled; activity; window"),
    ("polls_ok", "i8", "of these, ended by what was waited for; activity; window"),
    ("flags_left", "i8", "shootdown targets that got a flag instead of an IPI; ipi; window"),
    ("guest_switches", "i8", "switches between guest tasks; tasks; window"),
    ("mutex_acquires", "i8", "user locks taken; guest; window"),
    ("lhp_ns", "i8", "time that vCPUs were off their pCPU while holding a spin lock [ns]; engine; window"),
    ("shootdowns", "i8", "synchronous IPIs finished; guest; window"),
    ("shootdown_ns", "i8", "their summed latency, from the first send to the last acknowledgement [ns]; guest; window"),
    ("kicks", "i8", "reschedule IPIs of Kick phases; guest; window"),
    ("halts", "i8", "Block phases begun; guest; window"),
    ("wakeups", "i8", "vCPUs woken; guest; window"),
    ("wakeups_queued", "i8", "of these, those that found no idle pCPU; sched; window"),
    ("rewarm_spent_ns", "i8", "time lost to cold caches [ns]; guest; window"),
]

VCPU_FIELDS: list[Field] = [
    # line 1: what a scan for a target and an observation read (kernel.md 1.5 has the flags)
    ("state", "u1", "BLOCKED, READY or RUNNING; account"),
    ("preempted", "u1", "descheduled while still runnable; kvm"),
    ("ready", "u1", "preempted, or woken and not yet run; kvm"),
    ("preempted_in_kernel", "u1", "ring of the guest, latched at preemption; kvm"),
    ("in_spin_loop", "u1", "in the spin-exit handler, or descheduled within it; kvm"),
    ("dy_eligible", "u1", "toggled by the eligibility check while in_spin_loop; kvm"),
    ("blocking", "u1", "halted; kvm"),
    ("dy_runnable", "u1", "has an event that makes a blocking vCPU worth yielding to; guest"),
    ("pending_interrupt", "u1", "pending-interrupt hint (APICv active and an interrupt posted); kvm"),
    ("ipi_pending", "u1", "my tracked IPI has not been acknowledged; kvm"),
    ("ipi_vector", "u1", "VECTOR_* of my tracked IPI; kvm"),
    ("woken", "u1", "has not run since it was woken; engine"),
    ("ipi_receiver", "i4", "last_ipi_receiver, index in the VM, or NONE; kvm"),
    ("ipi_sender", "i4", "last_ipi_sender, index in the VM, or NONE; kvm"),
    ("tried_round", "i4", "and its round; kvm"),
    ("pcpu", "i8", "pCPU that it is on, queued at, or was on last; sched"),
    ("ready_since_ns", "i8", "when it last became ready [ns]; account"),
    ("boosted_ns", "i8", "when a yield to it last succeeded, -INF before the first [ns]; kvm"),
    ("ipi_time_ns", "i8", "when my tracked IPI was sent [ns]; kvm"),
    ("tried_serial", "i8", "serial of the spin exit that last tried this vCPU; kvm"),
    # line 2: what runs and until when
    ("t_end_ns", "i8", "end of the activity; what is left of it while not running [ns]; guest"),
    ("state_since_ns", "i8", "its time is charged up to here [ns]; account"),
    ("overhead_until_ns", "i8", "its guest goes on at this time [ns]; account"),
    ("spin_from_ns", "i8", "start of the present undisturbed spin [ns]; guest"),
    ("spin_budget_ns", "i8", "spin left before halting [ns]; guest"),
    ("vm", "i4", "its VM; build"),
    ("act", "u1", "ACT_*; guest"),
    ("ring0", "u1", "the guest is in kernel mode; guest"),
    ("in_irq", "u1", "in an interrupt handler, above act; guest"),
    ("resume_check", "u1", "must look at its lock when its guest goes on; guest"),
    ("burst", "u1", "within a burst; guest"),
    ("retry", "u1", "woken to try its mutex again; guest"),
    ("polling", "u1", "0, or POLLS or POLL_ENDS: halted, and polls on its pCPU; activity, sched"),
    ("pv_flush", "u1", "must flush its TLB when it is entered; ipi"),
    ("resched_pending", "u1", "a reschedule IPI waits to be taken; guest"),
    ("timer_pending", "u1", "a timer interrupt waits to be taken; guest"),
    ("irq_call", "u1", "the handler serves call-function IPIs; guest"),
    ("irq_resched", "u1", "the handler serves a reschedule IPI; guest"),
    ("run_ns", "i8", "time on a pCPU [ns]; account; window"),
    # line 3: switches and spins
    ("last_ran_ns", "i8", "when it last left a pCPU [ns]; engine"),
    ("rewarm_debt_ns", "i8", "compute that will run at half speed [ns]; engine"),
    ("ready_ns", "i8", "time runnable but not on a pCPU [ns]; account; window"),
    ("spin_ns", "i8", "time spinning on a pCPU [ns]; account; window"),
    ("overhead_ns", "i8", "time on a pCPU in host work [ns]; account; window"),
    ("ple_window_ns", "i8", "pause-loop window [ns]; kvm"),
    ("handler_until_ns", "i8", "the spin-exit handler ends here [ns]; engine"),
    ("lhp_since_ns", "i8", "when it left its pCPU holding a spin lock, else INF [ns]; engine"),
    # line 4: phases of the guest
    ("rng", "u8", "state of its random stream; rng"),
    ("idx", "i8", "its index in the VM; build"),
    ("wait_lock", "i8", "lock that it waits for, or NONE; guest"),
    ("burst_left_ns", "i8", "compute time left in this burst or pause [ns]; guest"),
    ("pc", "i4", "phase of its program; guest"),
    ("held_lock", "i4", "lock taken last within a group of several, for its Unlock; guest"),
    ("loop_left", "i4", "passes left of the Repeat it is in; guest"),
    ("holds", "i4", "spin locks held; guest"),
    ("irq_off", "i4", "depth of interrupt-disabling locks; guest"),
    ("spin_exits", "i4", "pause-loop exits of the present spin; engine"),
    ("ple_exits", "u4", "pause-loop exits; engine; window"),
    ("run_head", "i4", "first of its runnable guest tasks, or NONE; tasks"),
    # line 5: interrupts and waits
    ("irq_end_ns", "i8", "end of the handler; what is left of it while not running [ns]; guest"),
    ("irq_arrived_ns", "i8", "when the oldest interrupt not yet taken arrived, INF without one [ns]; ipi"),
    ("wait_since_ns", "i8", "start of the wait for a lock or of a shootdown [ns]; guest"),
    ("kernel_ns", "i8", "compute begun in ring 0 [ns]; guest; window"),
    ("send_next", "i4", "first vCPU of the batch that it sends to; ipi"),
    ("send_end", "i4", "end of that batch; ipi"),
    ("acks_left", "i4", "acknowledgements awaited; guest"),
    ("wait_gate", "i4", "queue or barrier that it waits for, or NONE; guest"),
    ("wait_next", "i4", "next waiter; guest"),
    ("wait_prev", "i4", "previous waiter; guest"),
    ("task", "i4", "guest task that it runs, NONE when it has none or no choice; tasks"),
    ("irq_timer", "u1", "the handler serves a timer; guest"),
    ("send_vector", "u1", "VECTOR_CALL or VECTOR_RESCHED; ipi"),
    ("send_single", "u1", "the IPI has one target; ipi"),
    # line 6: sleeps, and what is seldom used
    ("wake_ns", "i8", "when its timer fires, INF without one [ns]; guest"),
    ("blocked_ns", "i8", "time halted [ns]; account; window"),
    ("poll_ns", "i8", "its halt poll interval [ns]; activity"),
    ("halted_ns", "i8", "when it halted [ns]; activity"),
    ("task_since_ns", "i8", "when its guest switched to the task [ns]; tasks"),
    ("lag_ns", "i8", "least V - vruntime over its levels, shown to policies that need it [ns]; shown"),
    ("leaf", "i4", "its leaf in the event tree; build"),
    ("run_tail", "i4", "last one; tasks"),
    ("role_start", "i4", "row before its program, whose end starts it; build"),
]

LOCK_FIELDS: list[Field] = [
    ("last_ns", "i8", "wait_integral_ns is summed up to here [ns]; account"),
    ("wait_integral_ns", "i8", "integral of waiting over time [ns]; account; window"),
    ("wait_sum_ns", "i8", "sum of single waits [ns]; account; window"),
    ("acquires", "u4", "times taken; guest; window"),
    ("contended", "u4", "times taken after a wait; guest; window"),
    ("rng", "u8", "random stream that chooses among the waiters of a tas lock; rng"),
    ("owner", "i4", "vCPU, or NONE; guest"),
    ("head", "i4", "first waiter; guest"),
    ("tail", "i4", "last waiter; guest"),
    ("waiting", "i4", "waiters; guest"),
    ("vm", "i4", "its VM; build"),
    ("kind", "u1", "TAS, FIFO, PVQ or MUTEX; build"),
]

GATE_FIELDS: list[Field] = [
    ("spin_ns", "i8", "barrier: spin before halting [ns]; build"),
    ("of_tasks", "u1", "its waiters are guest tasks, not vCPUs; build"),
    ("level", "i4", "items in the queue, or arrivals at the barrier; guest"),
    ("capacity", "i4", "capacity of the queue, or parties of the barrier; build"),
    ("head", "i4", "first waiter; guest"),
    ("tail", "i4", "last waiter; guest"),
    ("waiting", "i4", "waiters; guest"),
    ("passed", "i4", "items or generations so far; guest"),
]

TASK_FIELDS: list[Field] = [
    ("rng", "u8", "state of its random stream while it does not run; tasks"),
    ("burst_left_ns", "i8", "compute time left in this burst or pause [ns]; tasks"),
    ("wake_ns", "i8", "when its timer fires, INF without one [ns]; tasks"),
    ("pc", "i4", "the phase that it finished last, or waits in; tasks"),
    ("loop_left", "i4", "passes left of the Repeat it is in; tasks"),
    ("home", "i4", "its vCPU; build"),
    ("leaf", "i4", "its leaf in the event tree; build"),
    ("next", "i4", "next task of the list that it is in; tasks"),
    ("state", "u1", "TASK_*; tasks"),
    ("burst", "u1", "within a burst; tasks"),
]

PHASE_FIELDS: list[Field] = [
    ("kind", "i8", "PH_*; build"),
    ("next", "i8", "phase that follows; build"),
    ("dist", "i8", "distribution of its duration; build"),
    ("a", "i8", "lock, gate, targets, count or number of branches, by kind; build"),
    ("b", "i8", "number of locks, or first row in `cum`, by kind; build"),
    ("c", "i8", "first row in `cum` of the choice of a lock; build"),
    ("kernel_q16", "i8", "chance of running in ring 0, in 1/65536; build"),
    ("option", "i8", "1: bursty, or interrupts off, by kind; build"),
]

DIST_FIELDS: list[Field] = [
    ("unit_ns", "i8", "a draw is this many ns times a whole number [ns]; build"),
    ("constant", "i8", "the whole number, when first is NONE; build"),
    ("first", "i8", "first row in `quant`, NONE for a constant; build"),
]

TRACE_FIELDS: list[Field] = [
    ("time_ns", "i8", "when [ns]; account.note"),
    ("kind", "i8", "TR_*; account.note"),
    ("vcpu", "i8", "whom; account.note"),
    ("arg", "i8", "what with, by kind; account.note"),
]

PARAM, HOST, ASK, TASK, GATE, ENTITY, PHASE, DIST, TRACE = (
    record(fields)
    for fields in (PARAM_FIELDS, HOST_FIELDS, ASK_FIELDS, TASK_FIELDS, GATE_FIELDS, ENTITY_FIELDS, PHASE_FIELDS,
                   DIST_FIELDS, TRACE_FIELDS)
)  # fmt: skip
PCPU, RQ, SE, VM, VCPU, LOCK = (
    record(fields, LINE) for fields in (PCPU_FIELDS, RQ_FIELDS, SE_FIELDS, VM_FIELDS, VCPU_FIELDS, LOCK_FIELDS)
)

I4, I8 = np.dtype(np.int32), np.dtype(np.int64)


STATE_PARTS: tuple[tuple[str, np.dtype], ...] = (  # type: ignore[type-arg]
    ("host", HOST), ("ask", ASK), ("pcpu", PCPU), ("rq", RQ), ("se", SE), ("vm", VM), ("vcpu", VCPU), ("task", TASK),
    ("lock", LOCK), ("gate", GATE), ("pend", I8), ("serve", I8), ("goal", I8), ("tree_ns", I8), ("tree", I4),
    ("hist", I4), ("trace", TRACE),
)  # fmt: skip
STATIC_PARTS: tuple[tuple[str, np.dtype], ...] = (  # type: ignore[type-arg]
    ("par", PARAM), ("ent", ENTITY), ("phase", PHASE), ("dist", DIST), ("quant", I8), ("cum", I8), ("affin", I8),
    ("by_leaf", I4),
)  # fmt: skip
