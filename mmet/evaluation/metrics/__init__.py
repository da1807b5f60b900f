"""Exact retrieval metrics from numbers alone: embeddings or distances, person ids and camera ids in, mAP and CMC out.

Nothing here reads a file, a model or a dataset, so each module can be tested against brute force.
"""
