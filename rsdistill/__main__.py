"""``python -m rsdistill``: the same as the ``rsdistill`` command."""

import sys

from rsdistill.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
