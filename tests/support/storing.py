"""A process that runs twelve short runs in a folder: python storing.py FOLDER [halt]. It appends the seed of each run
to FOLDER/PID.ran as the run begins. With "halt" it stands still in the third run, for somebody to kill it."""

import os
import sys
import time
from pathlib import Path

from kvmgym.measure import store
from kvmgym.policies import as_policy
from kvmgym.scenarios import BY_NAME

TIMES = (5_000_000, 1_000_000)


def runs() -> list[store.Run]:
    """Six seeds under two policies."""
    small = BY_NAME["hotlock-small"]
    return [store.Run(small, as_policy(policy), seed, *TIMES) for seed in range(6) for policy in ("none", "legacy")]


def main(folder: Path, halt: bool) -> None:
    """Run what is missing; two processes wait for each other before they begin."""
    real, ran = store.summarise, folder / f"{os.getpid()}.ran"

    def told(run: store.Run) -> store.Row:
        with open(ran, "a", encoding="utf-8") as file:
            file.write(f"{run.policy.name} {run.seed}\n")
        if halt and len(ran.read_text().splitlines()) == 3:
            while True:
                time.sleep(1)
        return real(run)

    store.summarise = told
    found = store.Store(folder)
    found.open()
    ran.touch()
    while not halt and len(list(folder.glob("*.ran"))) < 2:
        time.sleep(0.01)
    store.run_all(runs(), found, threads=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "halt" in sys.argv)
