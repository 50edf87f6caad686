"""``python -m outdim`` is the command line."""

import sys

from outdim.cli import main

sys.exit(main())
