"""``python -m rsd``, and what launchers of several processes start: ``accelerate launch -m rsd restore ...``."""

import sys

from rsd.cli import main

if __name__ == "__main__":
    sys.exit(main())
