"""
Certify, hand out, check
========================

Every certified result hands out its proof. A checker that shares no code with the solver, in ball arithmetic and
rational numbers, proves the claim again: on your machine, or on that of somebody who does not trust yours.
"""

# %%
# In short
# --------
# The loss is a formula, so that nothing about it is taken on trust. (The checker needs the extra ``check``.)

import fenchel

loss = fenchel.losses.from_expression("log(1 + (x - 1)**2)", variables=["x"])
result = fenchel.biconjugate(loss, fenchel.Gaussian([0.5], 0.3))
certificate = result.certificate()
certificate.save("certificate.json")
checked = fenchel.check(certificate)
print(f"valid: {checked.valid}, f** in [{checked.lower:.12f}, {checked.upper:.12f}]")

# %%
# ``python -m fenchel check certificate.json`` does the same at the command line.
#
# What is in it
# -------------
# Numbers are written as hexadecimal floats, which read back exactly.

record = certificate.to_dict()
print(sorted(record))
print(record["claim"])

# %%
# A claim that is not proved
# --------------------------
# Claim a little more than the proof gives, and the checker refuses:

record["claim"]["lower"] = (result.upper + 1e-3).hex()
record["claim"]["upper"] = (result.upper + 2e-3).hex()
refused = fenchel.check(record)
print(refused.valid, "-", refused.message)
