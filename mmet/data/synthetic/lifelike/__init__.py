"""Lifelike people: bodies of swept ellipsoids in real clothes, seen by many kinds of cameras."""
