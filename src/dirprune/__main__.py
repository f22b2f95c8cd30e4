"""`python -m dirprune` is the command `dirprune`."""

import sys

from dirprune.cli import main

sys.exit(main())
