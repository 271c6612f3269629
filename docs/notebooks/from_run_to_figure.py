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
# # From a run to a figure
#
# Opens a run, computes activation frequencies with xarray, and draws two figures of its own. The run of the
# [tutorial](../tutorial.md) will do, and so will any other that has units: `RUN` names it, and the environment
# variables `SPARCOM_RUN`, `SPARCOM_UNITS` and `SPARCOM_FIGURES` change it without an edit.

# %%
import os
from pathlib import Path

import altair as alt
import numpy as np
import xarray as xr

import sparcom_jax as sj

RUN = os.environ.get("SPARCOM_RUN", "outputs/tutorial/run")
UNITS = os.environ.get("SPARCOM_UNITS", "auroc")
FIGURES = Path(os.environ.get("SPARCOM_FIGURES", "outputs/tutorial/figures"))

# %% [markdown]
# ## Frequencies
#
# `dataset()` is a lazy xarray tree of all that the run holds. The arrays name their axes, so a count divides by the
# counted tokens of its instruction without a thought to shapes. What is stored are counts; a frequency is made when
# it is wanted.

# %%
run = sj.open_run(RUN)
run.require_complete()
tree = run.dataset()
print(run.categories, {name: group.shape for name, group in run.groups.items()})

# %%
group = next(iter(run.manifest.groups))  # mlp of a dense model; the first group of neurons of any other
counts, tokens = tree[f"{group}/positive_count"], tree["instruction/token_count"]
others = [name for name in counts.dims if name not in ("instruction", "layer")]
active = counts.mean(others) / tokens  # [I, L]: of an instruction, the mean frequency of a layer's neurons

labels = xr.DataArray([run.categories[index] for index in run.category], dims="instruction", name="category")
depth = active.assign_coords(layer=list(run.groups[group].layers)).groupby(labels).mean()
table = depth.to_dataframe("frequency").reset_index()

figure = (
    alt.Chart(table, width=420, height=220)
    .mark_line(point=True)
    .encode(
        alt.X("layer:O", title="layer"),
        alt.Y("frequency:Q", title="mean frequency", scale=alt.Scale(zero=False)),
        alt.Color("category:N", sort=run.categories, title=None),
    )
)
FIGURES.mkdir(parents=True, exist_ok=True)
figure.save(FIGURES / "depth.svg")
figure

# %% [markdown]
# ![Mean frequency of neurons, by layer and kind of instruction](depth.svg)
#
# *The tutorial's run: 252 instructions, SmolLM2-135M-Instruct. The kinds hardly differ: how much is active is a
# matter of the layer. Which neurons are active is what differs.*

# %% [markdown]
# ## Units of a category
#
# `select` chose the neurons that tell each category from the others, on one half of the instructions
# (`origin["half"]`). So the other half says whether they do: on the half that chose them, they do by construction.

# %%
units = sj.open_units(run, UNITS)
chose = set(units.origin["half"] or [])
held_out = np.array([row["id"] not in chose for row in run.instructions])
print(f"{units.name}: {units.origin['selector']}, {len(chose)} instructions chose, {held_out.sum()} are held out")

# %%
p = run.frequency(group)
measured = [np.flatnonzero(held_out & (run.category == index)) for index in range(len(run.categories))]
mean = np.stack([p[of].read().result().mean(axis=0) for of in measured])  # [C, L, ...]: of every neuron

rows = [
    {"units of": of, "category": name, "frequency": float(mean[c][units.mask[group][index]].mean())}
    for index, of in enumerate(units.categories)
    for c, name in enumerate(run.categories)
    if units.mask[group][index].any()
]
assert rows, f"no category has units in {group}"

# %%
base = alt.Chart(alt.Data(values=rows), width=280, height=200).encode(
    alt.X("category:N", sort=run.categories, title="instructions of"),
    alt.Y("units of:N", sort=run.categories),
)
cells = base.mark_rect().encode(alt.Color("frequency:Q", title=None, scale=alt.Scale(scheme="blues")))
middle = (min(row["frequency"] for row in rows) + max(row["frequency"] for row in rows)) / 2
numbers = base.mark_text(fontSize=11).encode(
    alt.Text("frequency:Q", format=".2f"),
    color=alt.condition(alt.datum.frequency > middle, alt.value("white"), alt.value("black")),
)
matrix = cells + numbers
matrix.save(FIGURES / "units.svg")
matrix

# %% [markdown]
# ![Mean frequency of each category's units in each category's instructions](units.svg)
#
# *The tutorial's run, held-out instructions. A row is the units of one kind; the diagonal is that kind's own
# instructions.*
#
# A figure for a paper is the same call with `.pdf` in the place of `.svg`. The report has figures of the tables
# (`sparcom report --figures=DIR`), and [Tables](../tables.md) has their columns.
