"""BAC: the outputs of single sub-blocks reused, each block by a schedule of its own."""
