"""What sweeps and greedy sets share: words for dimensions, grids of variants, earlier rankings."""
