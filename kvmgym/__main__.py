"""`python -m kvmgym`."""

import sys

from kvmgym.cli import main

sys.exit(main())
