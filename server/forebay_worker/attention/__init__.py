"""Attention backends over the paged cache: one a file, chosen in `select.py`."""
