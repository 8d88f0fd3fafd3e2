"""The loop of ``flax_rnn.loop`` with a backward pass of its own, and products over whole sequences."""
