"""f*: certified global maximization of l(theta) + <lambda', T(theta)> by branch and bound (Theorem 1)."""
