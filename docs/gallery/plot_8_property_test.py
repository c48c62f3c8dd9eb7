r"""
A property-based test of the theorems
=====================================

One example shows that a statement can hold. Hypothesis (the library) looks for one where it does not: it draws many
cases, and makes the first failure as simple as it can.
"""

# %%
# In short
# --------
# For every Gaussian q the relaxation is certified and is no more than f. Put this into a file of your tests; here the
# test is called by hand.

from hypothesis import given, settings

import fenchel
from fenchel.testing import assert_theorem1, assert_theorem2, gaussians, natural_parameters

loss = fenchel.losses.from_expression("log(1 + (x - 1)**2)", variables=["x"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(gaussians(dim=1))
def test_relaxation_is_below(q):
    result = fenchel.biconjugate(loss, q)
    assert result.certified
    assert result.lower <= -fenchel.expected_loss(loss, q) + 1e-9


test_relaxation_is_below()

# %%
# Both theorems
# -------------
# Theorem 1 at any natural parameter with a positive precision; of Theorem 2 the part that the paper's proof gives, that
# stationary pairs map both ways, at any radius and any prior. A failure prints the smallest example that was found.

from hypothesis import strategies as st


@settings(max_examples=5, deadline=None, derandomize=True)
@given(natural_parameters(dim=1, structure="isotropic", mean_bound=2.0, smallest=0.45))
def test_theorem_1(pair):
    assert_theorem1(loss, *pair)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(rho=st.floats(0.02, 1.0), delta=st.floats(0.05, 1.0))
def test_theorem_2_for_pairs(rho, delta):
    assert_theorem2(loss, rho, delta, pairs_only=True)


test_theorem_1()
test_theorem_2_for_pairs()
print("no counterexample found")

# %%
# Read as a statement about minimizers, Theorem 2 has exceptions, and hypothesis finds one, then shrinks it:


@settings(max_examples=15, deadline=None, derandomize=True, database=None, print_blob=False)
@given(rho=st.integers(1, 10).map(lambda tenths: tenths / 10))
def test_theorem_2_for_minimizers(rho):
    verdict = fenchel.verify_theorem2(loss, rho, 0.5)
    assert not verdict.measured["kink"], f"rho = {rho}: {verdict.explanation}"


try:
    test_theorem_2_for_minimizers()
except AssertionError as error:
    print(str(error).splitlines()[0])
