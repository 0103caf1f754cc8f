"""`python -m ai_otel.cli`: the command, where its script is not on the path."""

import sys

from ai_otel.cli import main

sys.exit(main())
