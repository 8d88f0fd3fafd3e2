"""Faster ways to evaluate the loop of ``flax_rnn.loop``, and the rule that selects one."""

from flax_rnn.fused.select import IMPLEMENTATIONS as IMPLEMENTATIONS
from flax_rnn.fused.select import Choice as Choice
from flax_rnn.fused.select import choose as choose
