"""A masked PPO agent whose network scores every candidate with the same weights: any number of vCPUs.

kind.py: what `kvmgym train` and kvmgym's loader find, training.py: its settings; both without torch. network.py: the
network (torch only). policy.py: the same network for sb3-contrib's MaskablePPO, and its rollout buffer. storage.py and
evaluations.py: files without code in them. agent.py: the trained agent. loop.py: a training run.
"""
