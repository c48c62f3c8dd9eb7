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

# %%
# A picture of a proof
# --------------------
# In one dimension: the quadratic Q that is proved to lie above the loss, the atoms of the worst case where the two
# touch, and the intervals of the proof. On each of them a parabola, tangent to the loss at a contact or in the middle,
# lies above the loss and is seen to stay below Q; outside of them one parabola does it all.

import matplotlib.pyplot as plt
import numpy as np

wells = fenchel.losses.from_expression("1 - cos(2*x) + tanh(x)", ["x"])
line = fenchel.biconjugate(wells, fenchel.Gaussian([0.4], 0.7))
proof = line.certificate()
theta = np.linspace(-5.0, 5.0, 600)
figure, axis = plt.subplots(figsize=(6.4, 3.2))
axis.plot(theta, wells(theta), color="black", label="loss")
axis.plot(theta, proof.majorant(theta[:, None]), color="#D55E00", label="majorant Q")
axis.scatter(line.atoms[:, 0], wells(line.atoms), s=300 * line.weights, color="#0072B2", zorder=3, label="atoms")
for ends in proof.boxes()[:, :, 0]:
    axis.axvspan(*ends, ymax=0.06, color="#999999", ec="white", lw=0.8)
axis.set(xlabel="theta", xlim=(-5.0, 5.0), ylim=(-1.5, 7.0))
axis.legend(title="grey: intervals of the proof", fontsize=8, title_fontsize=8)
figure.tight_layout()

# %%
# In two dimensions, for a logistic regression: the gap Q - l, zero at the atoms, and the boxes, which are small where
# the gap is. They are boxes in coordinates in which Q is round, and so parallelograms here.

rng = np.random.default_rng(0)
logistic = fenchel.losses.LogisticRegression(rng.normal(size=(30, 2)), rng.integers(0, 2, 30))
plane = fenchel.biconjugate(logistic, fenchel.Gaussian([0.5, -0.3], [[2.0, 0.6], [0.6, 1.0]]))
proof = plane.certificate()
boxes = proof.boxes()
middle, reach = boxes.mean(axis=(0, 1)), 0.55 * np.ptp(boxes, axis=(0, 1))
axes = [np.linspace(m - r, m + r, 200) for m, r in zip(middle, reach, strict=True)]
grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
gap = (proof.majorant(grid) - logistic(grid)).reshape(200, 200)
figure, axis = plt.subplots(figsize=(6.4, 4.6))
image = axis.pcolormesh(*axes, np.log10(np.maximum(gap, 1e-4)).T, cmap="Greys", shading="auto")
for corners in boxes:
    outline = corners[[0, 1, 3, 2, 0]]
    axis.plot(outline[:, 0], outline[:, 1], color="#0072B2", lw=0.6)
axis.scatter(*plane.atoms.T, s=200 * plane.weights, color="#D55E00", zorder=3)
axis.set(xlabel="theta 1", ylabel="theta 2", title=f"{len(boxes)} boxes; orange: atoms, sized by weight")
figure.colorbar(image, label="log10 (Q - loss)")
figure.tight_layout()
