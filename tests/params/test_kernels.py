"""A kernel's name sets the parts of a host, each part can be set by itself, and files keep both."""

from dataclasses import replace

import pytest

from kvmgym.params import KERNELS, Host, Scenario
from kvmgym.params.kernels import NEWEST, PARTS
from kvmgym.policies import BY_NAME
from kvmgym.scenarios import series


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_sets_its_parts(name):
    host, kernel = Host(kernel=name), KERNELS[name]
    assert {part: getattr(host, part) for part in PARTS} == {part: getattr(kernel, part) for part in PARTS}
    assert kernel.on_spin in BY_NAME


def test_without_a_kernel_a_host_does_as_the_newest():
    assert replace(Host(kernel=NEWEST), kernel=None) == Host()
    assert (Host().scheduler, Host().forfeit, Host().pick_buddy, Host().delay_dequeue) == ("eevdf", "6.19", True, True)


def test_every_part_can_be_set_by_itself_and_stays_when_the_kernel_changes():
    host = Host(kernel="6.12", pick_buddy=True, hz=250)
    assert (host.pick_buddy, host.forfeit, host.charge_before_wakeup) == (True, "pre-6.19", False)
    other = host.on_kernel("6.6")
    assert other == Host(kernel="6.6", pick_buddy=True, hz=250)
    assert not other.delay_dequeue


@pytest.mark.parametrize("host", [Host(kernel="6.1"), Host(kernel="6.1", alt_period=False, forfeit="none"),
                                  Host(kernel="6.14", scheduler="cfs", latency_ns=5_000_000)])  # fmt: skip
def test_a_file_keeps_the_kernel_and_what_differs_from_it(host):
    scenario = replace(series("dedup", 2), host=host)
    text = scenario.to_toml()
    assert Scenario.from_toml_text(text) == scenario
    assert f'kernel = "{host.kernel}"' in text
    assert ("scheduler" in text) == (host.scheduler != KERNELS[host.kernel].scheduler)
    assert ("alt_period" in text) == (not host.alt_period)


def test_a_file_may_name_a_kernel_only():
    text = series("dedup", 2).to_toml().replace("[host]\n", '[host]\nkernel = "5.4"\ndelay_dequeue = true\n')
    host = Scenario.from_toml_text(text).host
    assert (host.scheduler, host.alt_period, host.delay_dequeue) == ("cfs", False, True)


def test_an_unknown_kernel_suggests_the_nearest():
    with pytest.raises(ValueError, match='Host.kernel: unknown kernel "6.20": did you mean "6.12"'):
        Host(kernel="6.20")
    with pytest.raises(ValueError, match="Host.kernel = 6.1: must be a kernel's name"):
        Host(kernel=6.1)
    with pytest.raises(ValueError, match="Host.scheduler = 'bfs': must be"):
        Host(scheduler="bfs")
    with pytest.raises(ValueError, match="Host.min_granularity_ns = 0: must be 1 to"):
        Host(min_granularity_ns=0)


@pytest.mark.parametrize("pcpus, factor", [(1, 1), (2, 2), (7, 3), (8, 4), (16, 4), (512, 4)])
def test_the_tunables_of_cfs_follow_the_number_of_cpus(pcpus, factor):
    host = Host(pcpus, kernel="6.1")
    found = (host.sched_latency_ns, host.sched_min_granularity_ns, host.sched_wakeup_granularity_ns)
    assert found == (6_000_000 * factor, 750_000 * factor, 1_000_000 * factor)
    assert host.turn_ns == host.sched_latency_ns and Host(pcpus).turn_ns == Host(pcpus).base_slice_ns
    scaled = host.scaled(3)
    assert (scaled.latency_ns, scaled.min_granularity_ns, scaled.wakeup_granularity_ns) == tuple(3 * n for n in found)
