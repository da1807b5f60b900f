"""Command line of the page, also installed as `mmet-app`.

python -m mmet.app --gallery people --model outputs/demo/model
"""

from __future__ import annotations

import sys

from mmet.app.command import main

if __name__ == "__main__":
    sys.exit(main())
