"""`python -m tokenwire_cli`: the same program as the `tokenwire` script."""

import sys

from tokenwire_cli.main import run

sys.exit(run())
