"""BFM: blockwise flow matching, one stack of velocity blocks for each stretch of time."""
