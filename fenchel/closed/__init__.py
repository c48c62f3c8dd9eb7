"""f** in closed form, and sums of closed forms (the per-datum relaxation).

The rule: l(t) = a t + h((t - c)^2) with h concave has, at mean m and variance s^2, the worst case
-f** = a m + h(s^2 + (m - c)^2), by Jensen's inequality in (t - c)^2, with atoms at c +- sqrt(s^2 + (m - c)^2). It
covers ReLU (Scarf's bound), absolute value, the logistic loss (the Jaakkola-Jordan bound), Huber, Cauchy and Welsch
losses. A function of one linear predictor x.theta reduces to it, with the variance that each family leaves open:
x^T S x (full), (sum_i |x_i| s_i)^2 (diagonal), |x|^2 tr S (isotropic).
"""
