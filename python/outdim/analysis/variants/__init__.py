"""A model intact, ablated and beside its controls: batches through all of them, side by side."""
