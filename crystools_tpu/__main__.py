"""`python -m crystools_tpu` is the command `crystools-tpu`."""

import sys

from crystools_tpu.cli import main

sys.exit(main())
