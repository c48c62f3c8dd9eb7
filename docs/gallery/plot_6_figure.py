"""
A figure of the paper, again
============================

Every figure is drawn from a stored result alone, and every result is made by one command. In a checkout of the project:

.. code-block:: sh

    python -m experiments run fig1 --seed 3         # a quick run, in seconds; the report's numbers have --scale full
    python -m figures make fig1 --scale quick       # draws it to figures/rendered/quick/fig1.pdf and .png
    python -m figures make fig1                     # draws the full result, which the checkout holds
"""

# %%
# In short
# --------
# The same from Python, from the result that is stored in the checkout; a quick run of yours is at
# ``store.result_path("fig1", "quick")``. ``draw`` returns a matplotlib figure, to be changed and saved as you like.

from experiments import store
from figures import fig1
from figures.style import publication

stored = store.load(store.shown_path("fig1"))
with publication():
    figure = fig1.draw(stored)
figure.savefig("my_fig1.png")
print(stored.title)
print("computed by:", stored.provenance["command"], "at revision", stored.provenance["revision"])
