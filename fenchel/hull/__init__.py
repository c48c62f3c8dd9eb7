"""f** for P = 1 on a whole plane at once: the lower convex hull of the lifted curve."""
