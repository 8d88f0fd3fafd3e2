"""Whole sequences in one compiled kernel, on CPUs; optional, built when the package is installed."""

from flax_rnn.implementations.native.layer import Native as Native
