"""ICFG-PEDES (Ding et al., "Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification",
arXiv:2107.12666): pictures of MSMT17 with one sentence each.

`imgs/train` and `imgs/test` are where MSMT17 kept the pictures, not the split, which the annotation names; there is no
validation split. One training picture is annotated twice, so that 34,674 training entries are 34,673 pictures. Counts
as in the readme of https://github.com/zifyloo/SSAN.
"""

from __future__ import annotations

from mmet.data.captioned import CaptionedLayout
from mmet.data.registry import ReidDatasetSpec, SplitCount, register

LAYOUT = CaptionedLayout(
    title="ICFG-PEDES",
    folder_names=("ICFG-PEDES", "ICFG_PEDES"),
    annotation_files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
    path_field="file_path",
    expected_tree="""\
ICFG-PEDES/                          (name this folder, or the one that holds it)
├── imgs/
│   ├── train/                       0000/0000_000_01_0303morning_0008_0.jpg …
│   └── test/
└── ICFG-PEDES.json                  or ICFG_PEDES.json: list of {"split", "id", "file_path", "captions"}
""",
    picture_folders=("train", "test"),
    splits=("train", "test"),
)

ICFG_PEDES = register(
    ReidDatasetSpec(
        name="icfg_pedes",
        title=LAYOUT.title,
        expected_tree=LAYOUT.expected_tree,
        read=LAYOUT.read,
        published_counts={
            "train": SplitCount(images=34_673, persons=3_102, captions=34_674),
            "test": SplitCount(images=19_848, persons=1_000, captions=19_848),
        },
        protocol="text-to-image",
        licence="for research, on request to the authors; the pictures come from MSMT17, whose terms hold as well",
    )
)
