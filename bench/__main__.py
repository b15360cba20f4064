"""`python -m lyra.bench` is `lyra-bench`."""

import sys

from .cli import main

sys.exit(main())
