"""Kernels for NVIDIA's GPUs that keep the recurrent weights in registers for a whole sequence."""

from flax_rnn.implementations.cuda.layer import Cuda as Cuda
