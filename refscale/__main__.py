"""``python -m refscale``."""

import sys

from refscale.cli import main

if __name__ == "__main__":
    sys.exit(main())
