"""NVIDIA's LSTM for whole sequences, in one direction or in both."""

from flax_rnn.implementations.cudnn.layer import CuDNN as CuDNN
