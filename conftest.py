"""Which files are collected: those whose optional packages are installed. Anything else that fails to import fails."""

from importlib.util import find_spec

_NEEDS = {  # files, and the packages that they import
    "agents/ppo_single_file.py": ("torch",),
    "agents/kvmgym_agents/ppo/*": ("torch", "sb3_contrib", "safetensors"),
    "kvmgym/adapters/sb3.py": ("stable_baselines3",),
    "kvmgym/adapters/pettingzoo.py": ("pettingzoo",),
    "kvmgym/adapters/minari.py": ("minari", "h5py"),
    "kvmgym/cli/plots.py": ("matplotlib",),
}
collect_ignore_glob = [files for files, packages in _NEEDS.items() if not all(map(find_spec, packages))]
