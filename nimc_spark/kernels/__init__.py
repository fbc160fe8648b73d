"""The formulas: activations, features, rating blocks, statistics, penalties, top-K. Pure numpy, scipy and numba."""
