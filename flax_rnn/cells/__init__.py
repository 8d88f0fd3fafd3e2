"""One step: what a cell is, and the cells that there are."""

from flax_rnn.cells.conv_lstm import ConvLSTM1DCell as ConvLSTM1DCell
from flax_rnn.cells.conv_lstm import ConvLSTM2DCell as ConvLSTM2DCell
from flax_rnn.cells.conv_lstm import ConvLSTM3DCell as ConvLSTM3DCell
from flax_rnn.cells.cudnn import CuDNNGRUCell as CuDNNGRUCell
from flax_rnn.cells.cudnn import CuDNNLSTMCell as CuDNNLSTMCell
from flax_rnn.cells.gru import GRUCell as GRUCell
from flax_rnn.cells.lstm import LSTMCarry as LSTMCarry
from flax_rnn.cells.lstm import LSTMCell as LSTMCell
from flax_rnn.cells.simple_rnn import SimpleRNNCell as SimpleRNNCell
from flax_rnn.cells.stacked import StackedRNNCells as StackedRNNCells
