"""What next-scale autoregressive picture models (VAR, Infinity) have in common."""
