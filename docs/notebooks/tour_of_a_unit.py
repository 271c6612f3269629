# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of a unit
#
# `explore` writes a card of each of the first units of every category: where it is active, at which tokens, and what
# it writes. This notebook reads one card, part by part, and holds it against the counts of the run. What each part
# is, is defined in [Single units](../method.md#single-units).
#
# It wants a run with explored units, such as that of the [tutorial](../tutorial.md).

# %%
import os
from itertools import groupby

import altair as alt
import numpy as np

import sparcom_jax as sj

RUN = os.environ.get("SPARCOM_RUN", "outputs/tutorial/run")
UNITS = os.environ.get("SPARCOM_UNITS", "auroc")

run = sj.open_run(RUN)
explored = sj.open_explored(run, UNITS)
print(f"{len(explored['cards'])} cards; {explored['read']} instructions were read for them")

# %% [markdown]
# ## Choose one
#
# The first neuron of the last category but one (MATH, in HexaInst). `of` says among whose first units it is, with
# rank and score: by AUROC the share of pairs, one instruction of the category and one of another, in which the former
# makes it active more often.

# %%
category = run.categories[-2]
card = min(
    (card for card in explored["cards"] if category in card["of"] and card["group"] != "expert"),
    key=lambda card: card["of"][category]["rank"],
)
print(card["unit"], card["of"])

# %% [markdown]
# ## Where it is active
#
# The mean frequency in every category, with a 95% interval over instructions.

# %%
for name, (mean, low, high) in card["frequency"].items():
    print(f"{name:6} {mean:.3f}  {low:.3f} to {high:.3f}  {'#' * round(40 * mean)}")

# %% [markdown]
# The same from the counts, without the card: the name of the unit says which row of the array it is.

# %%
layer = run.groups[card["group"]].layers.index(card["layer"])
within = [int(part[1:]) for part in card["unit"].split(".")[1:] if part != "S"]  # N340, or E5 and N12
p = run.frequency(card["group"])[(slice(None), layer, *within)].read().result()
counted = {name: float(p[run.category == index].mean()) for index, name in enumerate(run.categories)}
assert np.allclose(list(counted.values()), [mean for mean, _, _ in card["frequency"].values()], atol=1e-3)

# %% [markdown]
# ## How active
#
# A histogram of its activation over the counted tokens of a sample of all categories. Only what is above 0 counts as
# active.

# %%
edges, heights = card["activations"]["edges"], card["activations"]["counts"]
print(f"above 0 at {card['activations']['active']:.1%} of {card['activations']['tokens']} tokens")
bars = [{"from": low, "to": high, "tokens": n} for low, high, n in zip(edges[:-1], edges[1:], heights, strict=True)]
histogram = (
    alt.Chart(alt.Data(values=bars), width=420, height=160)
    .mark_bar()
    .encode(
        alt.X("from:Q", bin="binned", title="activation"),
        alt.X2("to:Q"),
        alt.Y("tokens:Q", scale=alt.Scale(type="symlog")),
    )
)
histogram

# %% [markdown]
# ## At which tokens
#
# The texts with the highest activation come first, then one of each fifth of the range below. Marked are the tokens
# of the window at which it reaches half of its highest value there.


# %%
def marked(example: dict) -> str:
    """The window of an example, with the tokens in brackets at which the unit is most active."""
    bar = example["most"] / 2
    tokens = zip(example["tokens"], (value > bar for value in example["activations"]), strict=True)
    parts = (("".join(token for token, _ in part), high) for high, part in groupby(tokens, lambda pair: pair[1]))
    return "".join(f"[{text}]" if high else text for text, high in parts)


for example in card["examples"][:5]:
    print(f"{example['id']} ({example['category']}), at most {example['most']:.2f}:")
    print(f"    {marked(example)!r}")

# %% [markdown]
# ## What it writes
#
# The tokens whose logits its output moves most, through the final norm and the output head (the logit lens of one
# direction), in standard deviations over the vocabulary. What later layers make of it is left out, so of a unit in an
# early layer it says little.

# %%
for title in ("raises", "lowers"):
    print(title, ", ".join(f"{token!r} {shift:+.1f}" for token, shift in card[title]))

# %% [markdown]
# ## What is like it
#
# The units that the S(i) of most of the same instructions hold, by Jaccard.

# %%
print(card["neighbours"])
print(card.get("attribution", "the run has no attribution: sparcom attribute makes it"))

# %% [markdown]
# A card is one unit's story on the instructions that were read. Whether the model needs the unit is another question:
# `sparcom ablate` switches units off. All cards, with their texts, are in the report.
