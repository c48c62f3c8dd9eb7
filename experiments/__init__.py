"""The experiments: each computes one figure, table or check of the paper and stores it with its provenance."""
