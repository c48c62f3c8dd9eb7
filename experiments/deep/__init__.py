"""The deep benchmarks (Tables 1 to 6, Figs. 4 and 8)."""
