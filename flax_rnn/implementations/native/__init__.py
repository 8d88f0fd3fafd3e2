"""Whole sequences in one compiled kernel, on CPUs; optional, built when the package is installed."""

from flax_rnn.implementations.native.kernels import unsupported as unsupported
from flax_rnn.implementations.native.layer import evaluate as evaluate
