"""What a gallery's options do to its answers: centring, mirror images, both kinds of query, and presence.

    python benchmarks/gallery_queries.py --model outputs/demo/model --data market1501=data/market1501
    python benchmarks/gallery_queries.py --model outputs/demo/model --data cuhk_pedes=data/cuhk_pedes

Every row of the test persons asks and is searched for, by its picture, and where rows have captions by its first
caption and by both; the query's own picture, and those of the same person and camera, are left out. Presence: half of
the persons are learnt from, the others are searched for once with and once without their rows. Prints tables for
`docs/search.md`.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmet.gallery.embedding import ModelEmbedder, unit
from mmet.gallery.labelled import fit_pairs
from mmet.gallery.probability import EVIDENCE_ROWS, in_gallery
from mmet.gallery.sources import chunks, load_picture, read_source
from mmet.gallery.store import centred
from mmet.markdown_table import align_table

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]


class People(NamedTuple):
    """Embeddings `(n, D)` by what was embedded, and which pairs match and which are left out, both `(n, n)`."""

    vectors: dict[str, Vectors]
    is_match: Mask
    is_left_out: Mask
    persons: NDArray[np.str_]


def main() -> None:
    """Embed once, then print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="name=folder")
    options = parser.parse_args()
    people = embed(options.model, options.data)
    rows = [(name, *map(percent, metrics(*pair, people))) for name, pair in variants(people.vectors).items()]
    print(align_table(("query and rows", "mAP", "Rank-1"), rows, num_text_columns=1))
    queries = [name for name in ("image", "text", "both") if name in people.vectors]
    answers = [(f"{name}→image", *presence(people, name)) for name in queries]
    header = ("query", "in_gallery, present", "absent", "Brier score", "AUC")
    print(align_table(header, answers, num_text_columns=1))


def embed(model: str, data: str) -> People:
    """All rows of the test persons."""
    embedder = ModelEmbedder.load(model)
    entries = [e for e in read_source(data).entries if e.row.get("split") in ("test", "query", "gallery")]
    parts: dict[str, list[Vectors]] = {}
    for part in chunks(entries, 64):
        pictures = [load_picture(entry.image) for entry in part]
        parts.setdefault("image", []).append(embedder.embed(pictures, None))
        parts.setdefault("flipped", []).append(embedder.embed(pictures, None, flip=True))
        captions = [entry.row.get("captions", [None])[0] for entry in part]
        if all(captions):
            parts.setdefault("text", []).append(embedder.embed(None, captions))
            parts.setdefault("both", []).append(embedder.embed(pictures, captions))
    persons = np.array([entry.person_id for entry in entries])
    cameras = np.array([entry.camera_id or "" for entry in entries])
    is_match = persons[:, None] == persons[None]
    is_easy = is_match & (cameras[:, None] == cameras[None]) & (cameras[:, None] != "")
    vectors = {name: np.concatenate(blocks) for name, blocks in parts.items()}
    return People(vectors, is_match, is_easy | np.eye(len(entries), dtype=bool), persons)


def variants(vectors: dict[str, Vectors]) -> dict[str, tuple[Vectors, Vectors]]:
    """Queries and rows, by what is done with them."""
    image, flipped = vectors["image"], vectors["flipped"]
    mean = image.mean(axis=0).tolist()
    pairs = {
        "image": (image, image),
        "image, centred": (centred(image, mean), centred(image, mean)),
        "image, query with its mirror image": (flipped, image),
        "image, rows with their mirror images": (image, flipped),
        "image, both with their mirror images": (flipped, flipped),
    }
    if "text" in vectors:
        text, both = vectors["text"], vectors["both"]
        pairs |= {
            "sentence": (text, image),
            "sentence, centred about the rows' mean": (centred(text, mean), centred(image, mean)),
            "sentence, about the sentences' own mean": (centred(text, text.mean(axis=0)), centred(image, mean)),
            "sentence, rows with their mirror images": (text, flipped),
            "both in one vector": (both, image),
            "both in one vector, centred": (centred(both, mean), centred(image, mean)),
        }
        pairs |= {f"blend {share}": (unit((1 - share) * image + share * text), image) for share in (0.2, 0.4, 0.6)}
    return pairs


def metrics(queries: Vectors, rows: Vectors, people: People) -> tuple[float, float]:
    """Mean average precision and Rank-1."""
    precisions, firsts = [], []
    for scores, is_match, is_left_out in zip(queries @ rows.T, people.is_match, people.is_left_out, strict=True):
        order = np.argsort(-scores[~is_left_out], kind="stable")
        hits = is_match[~is_left_out][order]
        if hits.any():
            precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
            firsts.append(hits[0])
    return float(np.mean(precisions)), float(np.mean(firsts))


def presence(people: People, modality: str, seed: int = 0) -> tuple[str, str, str, str]:
    """Mean `in_gallery` of searches for persons who are there and who are not, its Brier score, and their AUC."""
    names = np.random.default_rng(seed).permutation(np.unique(people.persons))
    is_known = np.isin(people.persons, names[: len(names) // 2])
    scores = people.vectors[modality] @ people.vectors["image"].T
    block = np.ix_(is_known, is_known)
    used = ~people.is_left_out[block]
    known, is_match = scores[block], people.is_match[block]
    calibration = fit_pairs(known[used & is_match], known[used & ~is_match])
    answers: dict[bool, list[float]] = {True: [], False: []}
    for query in np.flatnonzero(~is_known):
        if not (people.is_match[query] & ~people.is_left_out[query]).any():
            continue
        for is_there, hidden in ((True, people.is_left_out[query]), (False, people.is_match[query])):
            searched = scores[query][~is_known & ~hidden]
            best = np.sort(searched)[::-1][:EVIDENCE_ROWS]
            answers[is_there].append(in_gallery(calibration, best.tolist(), len(searched)))
    there, absent = np.array(answers[True]), np.array(answers[False])
    brier = (((1 - there) ** 2).mean() + (absent**2).mean()) / 2
    auc = (there[:, None] > absent[None]).mean() + (there[:, None] == absent[None]).mean() / 2
    return f"{there.mean():.2f}", f"{absent.mean():.2f}", f"{brier:.3f}", f"{auc:.2f}"


def percent(share: float) -> str:
    """With one decimal, without a sign."""
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
