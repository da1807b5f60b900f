"""RSTPReid (Zhu et al., "DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval",
ACM MM 2021): five pictures of each of 4,101 persons, two sentences each.

`data_captions.json` is like CUHK-PEDES's, except that the field `img_path` names the picture. Counts as in the readme
of https://github.com/NjtechCVLab/RSTPReid-Dataset.
"""

from __future__ import annotations

from mmet.data.captioned import CaptionedLayout
from mmet.data.registry import ReidDatasetSpec, SplitCount, register

LAYOUT = CaptionedLayout(
    title="RSTPReid",
    folder_names=("RSTPReid",),
    annotation_files=("data_captions.json",),
    path_field="img_path",
    expected_tree="""\
RSTPReid/                            (name this folder, or the one that holds it)
├── imgs/                            0000_c14_0031.jpg …
└── data_captions.json               list of {"split", "id", "img_path", "captions"}
""",
)

RSTPREID = register(
    ReidDatasetSpec(
        name="rstpreid",
        title=LAYOUT.title,
        expected_tree=LAYOUT.expected_tree,
        read=LAYOUT.read,
        published_counts={
            "train": SplitCount(images=18_505, persons=3_701, captions=37_010),
            "validation": SplitCount(images=1_000, persons=200, captions=2_000),
            "test": SplitCount(images=1_000, persons=200, captions=2_000),
        },
        protocol="text-to-image",
        licence="for research, on request to the authors; the pictures come from MSMT17, whose terms hold as well",
    )
)
