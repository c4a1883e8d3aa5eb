"""How compute is spent: search, pruning, resampling and decoding policies."""

PART_OF = "gensift"
