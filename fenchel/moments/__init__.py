"""f** as a moment problem: column generation between a majorizing quadratic and worst-case atoms."""
