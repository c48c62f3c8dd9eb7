"""f** in closed form, and sums of closed forms (the per-datum relaxation)."""
