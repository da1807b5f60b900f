"""Command line of the server of embeddings, also installed as `mmet-serve`.

python -m mmet.serving --model outputs/demo/model
"""

from __future__ import annotations

import sys

from mmet.serving.command import main

if __name__ == "__main__":
    sys.exit(main())
