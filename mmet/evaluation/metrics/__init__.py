"""Exact retrieval metrics (mAP, mINP, CMC) from embeddings or distances, person ids and camera ids.

Nothing here reads a file, a model or a dataset, so each module can be tested against brute force.
"""
