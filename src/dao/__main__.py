"""``python -m dao`` is the command line ``dao``."""

import sys

from dao.cli import main

if __name__ == "__main__":
    sys.exit(main())
