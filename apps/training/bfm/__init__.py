"""Training of blockwise flow models, from nothing or from a dense one."""
