"""f: the expected loss E_q[l] and its gradient in mu, by exact reductions and quadrature."""
