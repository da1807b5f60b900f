"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015).

File names read `0002_c1s1_000451_03.jpg`: person, camera, sequence, frame, detection. Person -1 marks junk detections,
which the standard protocol removes before evaluation; person 0 marks distractors, which stay in the gallery and are
nobody elsewhere. Data of others in this layout, such as MSMT17 with its 15 cameras, may have more than nine cameras.
The published counts follow from the index files of the official release.
"""

from __future__ import annotations

import re

from mmet.data.registry import ReidDatasetSpec, SplitCount, register
from mmet.data.schema import DISTRACTOR_PERSON_ID
from mmet.data.split_folders import MARKET_SPLITS, SplitFolders

FOLDER_NAME = "Market-1501-v15.09.15"

LAYOUT = SplitFolders(
    title="Market-1501",
    folder_names=(FOLDER_NAME,),
    splits=MARKET_SPLITS,
    pattern=re.compile(r"(?P<person>-1|[0-9]{1,9})_c(?P<camera>[0-9]{1,9})(?:s[0-9]+)?[_.-]"),
    example="0002_c1s1_000451_03.jpg (<person>_c<camera>)",
    distractor_id=DISTRACTOR_PERSON_ID,
    expected_tree=f"""\
{FOLDER_NAME}/            (name this folder, or the one that holds it)
├── bounding_box_train/              0002_c1s1_000451_03.jpg …
├── bounding_box_test/               -1_c1s1_000401_03.jpg …
└── query/                           0001_c1s1_001051_00.jpg …
""",
)

MARKET1501 = register(
    ReidDatasetSpec(
        name="market1501",
        title=LAYOUT.title,
        expected_tree=LAYOUT.expected_tree,
        read=LAYOUT.read,
        published_counts={
            "train": SplitCount(images=12_936, persons=751),
            "query": SplitCount(images=3_368, persons=750),
            "gallery": SplitCount(images=15_913, persons=751),
        },
        distractor_id=DISTRACTOR_PERSON_ID,
        protocol="market",
        licence="for research; terms of the authors (no licence file in the release)",
        notice="Links to it that its authors published have gone dead; take it only from a source that may give it.",
    )
)
