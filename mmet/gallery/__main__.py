"""Command line of galleries, also installed as `mmet-gallery`.

python -m mmet.gallery build crops --model outputs/demo/model --output people
python -m mmet.gallery search people --text "a woman in a red jacket" -k 20 --html answer.html
"""

from __future__ import annotations

import sys

from mmet.gallery.command import main

if __name__ == "__main__":
    sys.exit(main())
