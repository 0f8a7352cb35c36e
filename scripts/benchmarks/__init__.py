"""Rows of ``scripts/benchmark.py``, a file per topic: whoever imports a file registers its rows."""
