"""The cells and layers as ``flax.linen`` modules.

Classes take Keras' arguments: ``LSTM(128, return_sequences=True)``. Parameters have Keras' names; those of a layer are
under ``cell``. There is no mathematics here: a module declares weights and draws keys, and hands both to the core.

Dropout is active where the call says ``training=True``, or the module ``deterministic=False``, and draws its key from
the ``dropout`` collection.
"""

from flax_rnn.linen.bidirectional import Bidirectional as Bidirectional
from flax_rnn.linen.cells import ConvLSTM1DCell as ConvLSTM1DCell
from flax_rnn.linen.cells import ConvLSTM2DCell as ConvLSTM2DCell
from flax_rnn.linen.cells import ConvLSTM3DCell as ConvLSTM3DCell
from flax_rnn.linen.cells import CoreCell as CoreCell
from flax_rnn.linen.cells import CuDNNGRUCell as CuDNNGRUCell
from flax_rnn.linen.cells import CuDNNLSTMCell as CuDNNLSTMCell
from flax_rnn.linen.cells import GRUCell as GRUCell
from flax_rnn.linen.cells import LSTMCell as LSTMCell
from flax_rnn.linen.cells import SimpleRNNCell as SimpleRNNCell
from flax_rnn.linen.layers import GRU as GRU
from flax_rnn.linen.layers import LSTM as LSTM
from flax_rnn.linen.layers import RNN as RNN
from flax_rnn.linen.layers import ConvLSTM1D as ConvLSTM1D
from flax_rnn.linen.layers import ConvLSTM2D as ConvLSTM2D
from flax_rnn.linen.layers import ConvLSTM3D as ConvLSTM3D
from flax_rnn.linen.layers import CuDNNGRU as CuDNNGRU
from flax_rnn.linen.layers import CuDNNLSTM as CuDNNLSTM
from flax_rnn.linen.layers import SimpleRNN as SimpleRNN
from flax_rnn.linen.stacked import StackedRNNCells as StackedRNNCells
from flax_rnn.linen.state import reset_state as reset_state
