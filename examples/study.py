"""A study of one model: a notebook in the percent format."""

# %% [markdown]
# # A study of one model
#
# A run directory is a study: each command adds what it found about one model, and costs only that.
# Open this file as a notebook (Jupytext, VS Code, PyCharm), or run it with Python.

# %%
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

MODEL = os.environ.get("MODEL", "bert-base-uncased")
TEXT = os.environ.get("TEXT", "python-docs")
STUDY = os.environ.get("STUDY", "runs/study")


def outdim(*arguments: str) -> None:
    """Run a command, as in a shell."""
    subprocess.run([sys.executable, "-m", "outdim", *arguments], check=True)


# %% [markdown]
# First the parameters alone: no text is read, and the model does not run. Then the text, which adds
# the statistics of every hidden dimension, their correlation with token frequency, and intervals.

# %%
outdim("detect", "--model", MODEL, "--output", STUDY)
outdim("correlate", TEXT, "--model", MODEL, "--output", STUDY)

# %% [markdown]
# Everything is in one table. Are the outliers by parameters those that follow frequency?

# %%
table = pd.read_parquet(f"{STUDY}/stats.parquet")
r = table.query("statistic == 'pearson_abs' and covariate == 'log1p_count' and selection == 'text'")
strongest = r.loc[r.groupby("point", sort=False)["value"].idxmax()]
print(strongest[["point", "dim", "value", "low", "high", "null"]].to_string(index=False))

# %%
outliers = [row["dim"] for row in json.loads(Path(f"{STUDY}/detection.json").read_text())["dims"]]
print("outliers by parameters:", outliers)
print("that follow frequency most at some point:", sorted(set(outliers) & set(strongest["dim"])))

# %% [markdown]
# Given again, a command finds its work done; with other options it refuses, for the directory would
# mix two answers.

# %%
outdim("correlate", TEXT, "--model", MODEL, "--output", STUDY)
other = ["correlate", TEXT, "--model", MODEL, "--output", STUDY, "--max-length", "16"]
print("exit code:", subprocess.run([sys.executable, "-m", "outdim", *other]).returncode)
