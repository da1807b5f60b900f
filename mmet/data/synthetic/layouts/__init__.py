"""Folder layouts of the synthetic world, one file each. A new one is one more file and one more line in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping

from mmet.data.synthetic.layouts.base import Layout
from mmet.data.synthetic.layouts.cuhk_pedes import CUHK_PEDES
from mmet.data.synthetic.layouts.finegpr import FINEGPR
from mmet.data.synthetic.layouts.market1501 import MARKET1501

LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in (FINEGPR, MARKET1501, CUHK_PEDES)}
"""Layouts by the name users type."""
