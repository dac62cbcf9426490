"""Questions put to the simulator, one folder each: README.md, sweep.py (simulates), analysis.py (writes report.md)."""
