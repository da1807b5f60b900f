"""`rank_metrics` as a metric of the `evaluate` library.

    reid = evaluate.load("mmet/evaluation/reid")
    reid.compute(query_embeddings=…, gallery_embeddings=…, query_person_ids=…, gallery_person_ids=…)

or, where embeddings come in batches, from one process or several:

    reid.add_batch(embeddings=…, person_ids=…, camera_ids=…, is_query=True)
    reid.compute()

In one process the arrays are kept as they are. With `num_process` > 1 they go through evaluate's Arrow files, of which
process 0 reads those of all. (`evaluate.load` reads the import lines of this file one by one and imports each first
word, so they name one module a line.)
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from mmet.evaluation.metrics.ranking import RankMetrics, rank_metrics

DESCRIPTION = """
Exact mAP, mINP and CMC of person re-identification by cosine similarity: junk (person -1) ignored, distractors kept,
the query's own person in its own camera removed, queries without a true match skipped and counted, equal scores in
gallery order.
"""

INPUTS = """
Args of `add_batch` (any number of calls, query and gallery in any order):
    embeddings: (n, D) array or tensor.
    person_ids: (n,) integers; -1 marks junk in the gallery.
    camera_ids: (n,) integers, -1 for unknown; leave out where there are none.
    is_query: one bool for the batch, or (n,) bools.
Args of `compute`, in place of batches:
    query_embeddings, gallery_embeddings, query_person_ids, gallery_person_ids: arrays or tensors.
    query_camera_ids, gallery_camera_ids: both or neither.
Args of `compute`, always:
    max_rank: length of the CMC curve, 50 unless given.
    ap: `mean-precision` (default) or `trapezoid`.
    denominator: means over the `valid` queries (default) or over `all`.
Returns:
    mAP, mINP, rank1, rank5, rank10 (as far as max_rank reaches) as fractions, cmc as a list, num_queries,
    num_valid_queries, num_gallery.
"""

CITATION = """
@inproceedings{zheng2015scalable,
  title={Scalable Person Re-identification: A Benchmark},
  author={Zheng, Liang and Shen, Liyue and Tian, Lu and Wang, Shengjin and Wang, Jingdong and Tian, Qi},
  booktitle={ICCV},
  year={2015}
}
"""

REPORTED_RANKS = (1, 5, 10)
SIDES = ("query_embeddings", "gallery_embeddings", "query_person_ids", "gallery_person_ids")
NO_CAMERA = -1


class ReID(evaluate.Metric):  # type: ignore[misc]
    """Rows are images or captions, of query or gallery; see `INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        # evaluate calls this before it knows of processes: nothing here may depend on them.
        features = {
            "embeddings": datasets.Sequence(datasets.Value("float32")),
            "person_ids": datasets.Value("int64"),
            "camera_ids": datasets.Value("int64"),
            "is_query": datasets.Value("bool"),
        }
        self._batches: dict[str, list[dict[str, Any]]] = {"query": [], "gallery": []}
        info = evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )
        info.format = "numpy"  # the constructor refuses it with sequences, reading does not
        return info

    def __len__(self) -> int:
        if self.num_process > 1:
            return int(super().__len__())
        return sum(len(batch["person_ids"]) for batches in self._batches.values() for batch in batches)

    def add_batch(self, *, embeddings: Any, person_ids: Any, is_query: Any, camera_ids: Any = None) -> None:
        """Add rows of query or gallery. In one process arrays are kept, not copied: do not overwrite them."""
        rows, persons = _array(embeddings, np.float32), _array(person_ids)
        cameras = np.full(len(rows), NO_CAMERA) if camera_ids is None else _array(camera_ids)
        query = (
            np.broadcast_to(_array(is_query, np.bool_), len(rows))
            if np.ndim(is_query) == 0
            else _array(is_query, np.bool_)
        )
        batch = {"embeddings": rows, "person_ids": persons, "camera_ids": cameras, "is_query": query}
        for name, column in batch.items():
            if len(column) != len(rows):
                raise ValueError(f"expected {len(rows)} {name}, one per embedding, received {len(column)}")
        if self.num_process > 1:
            super().add_batch(**batch)
            return
        for side, chosen in (("query", query), ("gallery", ~query)):
            if chosen.all():
                self._batches[side].append(batch)
            elif chosen.any():
                self._batches[side].append({name: column[chosen] for name, column in batch.items()})

    def add(self, *, embedding: Any, person_id: int, is_query: bool, camera_id: int = NO_CAMERA) -> None:
        """Add one row."""
        self.add_batch(
            embeddings=_array(embedding)[None],
            person_ids=np.array([person_id]),
            camera_ids=np.array([camera_id]),
            is_query=is_query,
        )

    def compute(self, **kwargs: Any) -> dict[str, Any] | None:
        """Metrics of the rows added, or of query and gallery given here; None on processes other than the first."""
        received = [name for name in SIDES if kwargs.get(name) is not None]
        if received and len(received) < len(SIDES):
            raise ValueError(f"expected all of {', '.join(SIDES)}, received {', '.join(received)}")
        if received and len(self):
            raise ValueError(f"expected batches or query and gallery, received both ({len(self)} rows were added)")
        sides = {name: kwargs.pop(name, None) for name in (*SIDES, "query_camera_ids", "gallery_camera_ids")}
        if self.num_process > 1:
            if received:
                self._add_side("query", sides)
                self._add_side("gallery", sides)
            return super().compute(**kwargs)  # type: ignore[no-any-return]
        if received:
            return _results(rank_metrics(**sides, **kwargs))
        for side, batches in self._batches.items():
            if not batches:
                raise ValueError(f"expected rows of query and gallery by add_batch or here, received none of {side}")
            for name in ("embeddings", "person_ids", "camera_ids"):
                sides[f"{side}_{name}"] = np.concatenate([batch[name] for batch in batches])
        self._batches = {"query": [], "gallery": []}
        return _results(rank_metrics(**sides, **kwargs))

    def _add_side(self, side: str, sides: dict[str, Any]) -> None:
        self.add_batch(
            embeddings=sides[f"{side}_embeddings"],
            person_ids=sides[f"{side}_person_ids"],
            camera_ids=sides[f"{side}_camera_ids"],
            is_query=side == "query",
        )

    def _compute(
        self, embeddings: Any, person_ids: Any, camera_ids: Any, is_query: Any, **options: Any
    ) -> dict[str, Any]:
        rows, query = np.asarray(embeddings, dtype=np.float32), np.asarray(is_query, dtype=bool)
        persons, cameras = np.asarray(person_ids), np.asarray(camera_ids)
        return _results(
            rank_metrics(
                rows[query], rows[~query], persons[query], persons[~query], cameras[query], cameras[~query], **options
            )
        )


def _array(values: Any, dtype: Any = None) -> np.ndarray:
    """Arrays and tensors of any device as numpy arrays."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu() if values.dtype.is_floating_point else values.detach().cpu()
    return np.asarray(values, dtype=dtype)


def _results(metrics: RankMetrics) -> dict[str, Any]:
    ranks = [k for k in REPORTED_RANKS if k <= (metrics.max_rank or len(metrics.cmc))]
    return {
        "mAP": metrics.mAP,
        "mINP": metrics.mINP,
        **{f"rank{k}": metrics.rank(k) for k in ranks},
        "cmc": metrics.cmc.tolist(),
        "num_queries": metrics.num_queries,
        "num_valid_queries": metrics.num_valid_queries,
        "num_gallery": metrics.num_gallery,
    }
