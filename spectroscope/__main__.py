"""`python -m spectroscope`."""

import sys

from spectroscope.cli import main

sys.exit(main())
