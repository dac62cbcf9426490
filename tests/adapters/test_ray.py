"""The real Ray: what goes to its workers and back gives the bits that it gives here."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import kvmgym
from kvmgym.env.single import DirectedYieldEnv
from kvmgym.policies import BY_NAME as POLICY
from kvmgym.scenarios import BY_NAME as SCENARIO

pytestmark = pytest.mark.slow
TIMES = {"duration_ns": 2_000_000, "warmup_ns": 0}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    pytest.importorskip("ray")
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_scenarios_and_policies_go_to_a_worker_after_use(ray: Any) -> None:
    scenario, policy = SCENARIO["shootdowns-small"], POLICY["relaxed"]
    here = kvmgym.simulate(scenario, policy, seed=3, **TIMES)

    @ray.remote
    def there(*what: Any) -> Any:
        import kvmgym

        result = kvmgym.simulate(*what, seed=3, **TIMES)
        return result.ops_per_s, result.events, result.decisions

    assert ray.get(there.remote(scenario, policy)) == (here.ops_per_s, here.events, here.decisions)


def test_an_environment_goes_on_in_an_actor(ray: Any) -> None:
    env = DirectedYieldEnv("shootdowns-small", duration_ns=2_000_000)
    env.reset(seed=5)
    env.step(0)

    class Actor:
        def __init__(self, env: Any) -> None:
            self.env = env

        def step(self, action: int) -> Any:
            return self.env.step(action)

    actor = ray.remote(Actor).remote(env)
    for action in (1, 2, 0, 3):
        seen, reward, _, ended, info = env.step(action)
        theirs = ray.get(actor.step.remote(action))
        assert np.array_equal(seen, theirs[0]) and (reward, ended) == (theirs[1], theirs[3])
        assert info["now_ns"] == theirs[4]["now_ns"]
        if ended:
            break
