"""Folder layouts of the synthetic world, one file each. To add one, write a file and add it to `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Mapping

from mmet.data.synthetic.layouts.base import Layout
from mmet.data.synthetic.layouts.cuhk03 import CUHK03
from mmet.data.synthetic.layouts.cuhk_pedes import CUHK_PEDES
from mmet.data.synthetic.layouts.dukemtmc import DUKEMTMC
from mmet.data.synthetic.layouts.finegpr import FINEGPR
from mmet.data.synthetic.layouts.folder import FOLDER
from mmet.data.synthetic.layouts.icfg_pedes import ICFG_PEDES
from mmet.data.synthetic.layouts.market1501 import MARKET1501
from mmet.data.synthetic.layouts.msmt17 import MSMT17
from mmet.data.synthetic.layouts.randperson import RANDPERSON
from mmet.data.synthetic.layouts.rstpreid import RSTPREID

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        FINEGPR,
        MARKET1501,
        CUHK_PEDES,
        DUKEMTMC,
        CUHK03,
        MSMT17,
        RANDPERSON,
        ICFG_PEDES,
        RSTPREID,
        FOLDER,
    )
}
"""Layouts by their name on the command line."""
