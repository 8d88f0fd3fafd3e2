"""Recurrent layers for JAX: Keras' cells and layers as pure functions, with faces for Flax's linen and nnx.

The pure core is here and needs jax only; the same classes as Flax modules are in ``flax_rnn.nnx`` and
``flax_rnn.linen``.
"""

from importlib.metadata import PackageNotFoundError, version

from flax_rnn.cells.conv_lstm import ConvLSTM1DCell as ConvLSTM1DCell
from flax_rnn.cells.conv_lstm import ConvLSTM2DCell as ConvLSTM2DCell
from flax_rnn.cells.conv_lstm import ConvLSTM3DCell as ConvLSTM3DCell
from flax_rnn.cells.cudnn import CuDNNGRUCell as CuDNNGRUCell
from flax_rnn.cells.cudnn import CuDNNLSTMCell as CuDNNLSTMCell
from flax_rnn.cells.dropout import DropoutMasks as DropoutMasks
from flax_rnn.cells.evaluate import apply_cell as apply_cell
from flax_rnn.cells.evaluate import bind_constants as bind_constants
from flax_rnn.cells.evaluate import zero_carry as zero_carry
from flax_rnn.cells.gru import GRUCell as GRUCell
from flax_rnn.cells.lstm import LSTMCarry as LSTMCarry
from flax_rnn.cells.lstm import LSTMCell as LSTMCell
from flax_rnn.cells.protocol import Cell as Cell
from flax_rnn.cells.simple_rnn import SimpleRNNCell as SimpleRNNCell
from flax_rnn.cells.stacked import StackedRNNCells as StackedRNNCells
from flax_rnn.implementations.choice import Choice as Choice
from flax_rnn.implementations.choice import choose as choose
from flax_rnn.implementations.options import SequenceOptions as SequenceOptions
from flax_rnn.layers.bidirectional import bidirectional as bidirectional
from flax_rnn.layers.bidirectional import merge as merge
from flax_rnn.layers.gates import gates as gates
from flax_rnn.layers.rnn import rnn as rnn
from flax_rnn.layers.stateful import LayerOptions as LayerOptions
from flax_rnn.target import portable as portable

try:
    __version__ = version("flax_rnn")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"
