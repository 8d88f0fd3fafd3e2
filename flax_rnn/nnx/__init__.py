"""The cells and layers as ``flax.nnx`` modules.

Classes take Keras' arguments, after the number of input features and with ``rngs``, as NNX has it:
``LSTM(64, 128, return_sequences=True, rngs=nnx.Rngs(0))``. Weights are ``nnx.Param`` under Keras' names. There is no
mathematics here: a module holds weights and a stream of keys, and hands both to its cell of the core.

As with ``nnx.Dropout``, dropout is active until ``model.eval()``, ``deterministic=True`` or ``training=False`` says
otherwise, and its keys come from the ``dropout`` stream (or the default one) of the ``rngs`` at construction.
"""

from flax_rnn.nnx.base import RngSource as RngSource
from flax_rnn.nnx.bidirectional import Bidirectional as Bidirectional
from flax_rnn.nnx.cells import ConvLSTM1DCell as ConvLSTM1DCell
from flax_rnn.nnx.cells import ConvLSTM2DCell as ConvLSTM2DCell
from flax_rnn.nnx.cells import ConvLSTM3DCell as ConvLSTM3DCell
from flax_rnn.nnx.cells import CoreCell as CoreCell
from flax_rnn.nnx.cells import CuDNNGRUCell as CuDNNGRUCell
from flax_rnn.nnx.cells import CuDNNLSTMCell as CuDNNLSTMCell
from flax_rnn.nnx.cells import GRUCell as GRUCell
from flax_rnn.nnx.cells import LSTMCell as LSTMCell
from flax_rnn.nnx.cells import SimpleRNNCell as SimpleRNNCell
from flax_rnn.nnx.layers import GRU as GRU
from flax_rnn.nnx.layers import LSTM as LSTM
from flax_rnn.nnx.layers import RNN as RNN
from flax_rnn.nnx.layers import ConvLSTM1D as ConvLSTM1D
from flax_rnn.nnx.layers import ConvLSTM2D as ConvLSTM2D
from flax_rnn.nnx.layers import ConvLSTM3D as ConvLSTM3D
from flax_rnn.nnx.layers import CuDNNGRU as CuDNNGRU
from flax_rnn.nnx.layers import CuDNNLSTM as CuDNNLSTM
from flax_rnn.nnx.layers import SimpleRNN as SimpleRNN
from flax_rnn.nnx.stacked import StackedRNNCells as StackedRNNCells
from flax_rnn.nnx.state import RecurrentState as RecurrentState
from flax_rnn.nnx.state import reset_state as reset_state
