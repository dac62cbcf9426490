"""Short runs and stores for tests, and a process that runs twelve in a folder: python storing.py FOLDER [halt]. It
appends each run to FOLDER/PID.ran as it begins. With "halt" it stands still in the third, for somebody to kill it."""

import os
import sys
import time
from pathlib import Path

from kvmgym.measure import store
from kvmgym.policies import as_policy
from kvmgym.scenarios import BY_NAME

SMALL, TIMES = BY_NAME["hotlock-small"], (5_000_000, 1_000_000)


def runs(policies: tuple[str, ...] = ("none", "legacy"), seeds: int = 3) -> list[store.Run]:
    """Each policy on each seed."""
    return [store.Run(SMALL, as_policy(policy), seed, *TIMES) for seed in range(seeds) for policy in policies]


def twelve() -> list[store.Run]:
    """What the process runs."""
    return runs(seeds=6)


def opened(folder: Path) -> store.Store:
    """The store in a folder, read."""
    found = store.Store(folder)
    found.open()
    return found


def main(folder: Path, halt: bool) -> None:
    """Run what is missing; two processes wait for each other before they begin."""
    real, ran = store.summarise, folder / f"{os.getpid()}.ran"

    def told(run: store.Run, *rest: object) -> store.Row:
        with open(ran, "a", encoding="utf-8") as file:
            file.write(f"{run.policy.name} {run.seed}\n")
        if halt and len(ran.read_text().splitlines()) == 3:
            while True:
                time.sleep(1)
        return real(run)

    store.summarise = told
    found = opened(folder)
    ran.touch()
    for _ in range(20_000):  # the other may have failed
        if halt or len(list(folder.glob("*.ran"))) == 2:
            break
        time.sleep(0.01)
    store.run_all(twelve(), found, threads=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "halt" in sys.argv)
