"""Bridges to other libraries, one module a library: sb3, pettingzoo, rllib, minari. Import the one you need.

Nothing is imported here, so that `import kvmgym` needs none of them. What each does stands in docs/adapters.md.
"""
