"""`python -m kvmgym`."""

import sys

from kvmgym.cli.main import main

sys.exit(main())
