"""f** as a moment problem: column generation between a majorizing quadratic and worst-case atoms.

By Theorem 1 the epigraph of f** is the closed convex hull of the curve (T(theta), -l(theta)), so that
f**(mu) = -sup { E_p[l] : p any distribution with E_p[T] = mu }. Any atoms and weights with the moments mu bound f**
from above; any quadratic t - <lambda', T(theta)> >= l(theta) for all theta bounds it from below, by <lambda', mu> - t.
The rounds of `cutting_plane` close the two: the atoms are the columns of a small linear program, its dual is the
quadratic, and new atoms are where the loss exceeds it.
"""
