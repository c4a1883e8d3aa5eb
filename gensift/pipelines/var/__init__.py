"""VAR: class-conditional next-scale prediction of codebook entries, arXiv 2404.02905."""
