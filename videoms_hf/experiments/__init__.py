"""Experiments on small networks: a rendered dataset, clips in memory, comparisons with intervals."""
