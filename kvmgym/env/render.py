"""Pictures of a decision, as text or pixels: what runs on each pCPU, who waits there, and the spinner's vCPUs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvmgym.core import layout
from kvmgym.env import stepping
from kvmgym.env.rows import Worlds


def picture(worlds: Worlds, row: int) -> str:
    """Row `row` as text: a line a pCPU (the vCPU on it, then those that wait; `*` the spinner, `~` spinning, `!`
    holds a spin lock), and what may be chosen."""
    blueprint = worlds.blueprints[row]
    if blueprint is None:
        return "no episode yet"
    world, numbers = worlds.world(row), worlds.rows[row]
    spinner = -1
    if numbers[stepping.AT] == layout.AT_DECISION:
        spinner = blueprint.firsts[int(numbers[stepping.VM])] + int(numbers[stepping.ME])
    lines = [f"{blueprint.scenario.name} at {numbers[stepping.NOW_NS] / 1e6:.3f} ms"]
    for p in range(blueprint.pcpus):
        here = [v for v in range(blueprint.vcpus) if world.vcpu[v]["pcpu"] == p]
        on = int(world.pcpu[p]["curr"])
        waiting = [v for v in here if v != on and world.vcpu[v]["state"] == layout.READY]
        names = [_name(worlds, row, v, spinner) for v in waiting]
        lines.append(f"p{p:<3} {_name(worlds, row, on, spinner) if on >= 0 else 'idle':<10} | {' '.join(names)}")
    if spinner >= 0:
        allowed = [str(i) for i in range(worlds.max_vcpus) if worlds.masks[row, i]]
        vm = blueprint.vms[int(numbers[stepping.VM])].name
        lines.append(f"{vm}: vCPU {numbers[stepping.ME]} spins; it may yield to {', '.join(allowed) or 'nobody'}")
    return "\n".join(lines)


def _name(worlds: Worlds, row: int, v: int, spinner: int) -> str:
    blueprint = worlds.blueprints[row]
    assert blueprint is not None
    vcpu = worlds.world(row).vcpu[v]
    spins = layout.ACT_SEND < vcpu["act"] < layout.ACT_HALT
    marks = ("*" if v == spinner else "~" if spins else "") + ("!" if vcpu["holds"] > 0 else "")
    return f"{blueprint.vms[vcpu['vm']].name}.{vcpu['idx']}{marks}"


CELL, COLUMNS = 12, 12  # pixels of a vCPU, and how many a pCPU's line shows: the running one, a gap, those that wait
_COLOURS = np.array([[66, 133, 244], [219, 68, 55], [15, 157, 88], [244, 160, 0], [128, 90, 213], [0, 172, 193]])


def frame(worlds: Worlds, row: int) -> npt.NDArray[np.uint8]:
    """Row `row` as pixels, uint8 [P*CELL, COLUMNS*CELL, 3]: a line a pCPU, its vCPU at the left, those that wait to
    the right; a colour a VM, paler while it spins, the spinner in a white frame. P is that of the environment's largest
    host, so that the frames of a recording are of one size (of a sampler: of the first shown, cut off beyond)."""
    blueprint = worlds.blueprints[row]
    if blueprint is None:
        return np.zeros((max(worlds.frame_pcpus, 1) * CELL, COLUMNS * CELL, 3), np.uint8)
    world, numbers = worlds.world(row), worlds.rows[row]
    worlds.frame_pcpus = worlds.frame_pcpus or blueprint.pcpus
    image = np.zeros((worlds.frame_pcpus * CELL, COLUMNS * CELL, 3), np.uint8)
    spinner = -1
    if numbers[stepping.AT] == layout.AT_DECISION:
        spinner = blueprint.firsts[int(numbers[stepping.VM])] + int(numbers[stepping.ME])
    waiting = [2] * blueprint.pcpus
    for v, vcpu in enumerate(world.vcpu):
        p = int(vcpu["pcpu"])
        column = 0 if vcpu["state"] == layout.RUNNING else waiting[p]
        if vcpu["state"] == layout.BLOCKED or column >= COLUMNS or p >= worlds.frame_pcpus:
            continue
        waiting[p] += column > 0
        colour = _COLOURS[int(vcpu["vm"]) % len(_COLOURS)]
        if layout.ACT_SEND < vcpu["act"] < layout.ACT_HALT:
            colour = (colour + 255) // 2
        cell = image[p * CELL : (p + 1) * CELL, column * CELL : (column + 1) * CELL]
        cell[1:-1, 1:-1] = colour
        if v == spinner:
            cell[[0, -1]] = cell[:, [0, -1]] = 255
    return image
