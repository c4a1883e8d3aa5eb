"""Side-by-side measurements; each writes `docs/benchmarks/NAME.json` and a plot beside it."""
