"""Weights of other libraries, and files of them: Keras, torch, Flax's own cells, safetensors.

A saved Keras model into a Flax model, and back::

    params = load("model.keras", params)  # linen: new params
    load("model.keras", model, names={"lstm_1": "encoder/rnn"})  # nnx: in place
    save("model.weights.h5", model, {"embedding": "Embedding", "lstm": "LSTM", "dense": "Dense"})

A torch model, from its state dict or a file::

    params = load_torch(torch_model.state_dict(), params)
    load_torch("model.pt", model, prefix="encoder.", names={"rnn": "lstm"})

The weights of one layer; a cell's are ``{"kernel", "recurrent_kernel", "bias"}``, a tuple of them is a stack::

    params = from_keras(LSTMCell(64), keras_layer.get_weights())
    keras_layer.set_weights(to_keras(params))
    params = from_cudnn(params_of_a_CuDNNLSTM)
    (params,) = from_torch(torch_lstm.state_dict())
    params = from_flax(linen_cell_params)
    cell_params = to_flax(params, "nnx.OptimizedLSTMCell")

An LSTM's carry is ``(h, c)`` here, in Keras and in torch, and ``(c, h)`` in Flax.

Whatever does not fit is a ``ConversionError``. Files need the extra ``flax_rnn[convert]``; nothing in them is executed.
"""

from flax_rnn.convert.cudnn import from_cudnn as from_cudnn
from flax_rnn.convert.cudnn import is_cudnn as is_cudnn
from flax_rnn.convert.cudnn import to_cudnn as to_cudnn
from flax_rnn.convert.errors import ConversionError as ConversionError
from flax_rnn.convert.files import read as read
from flax_rnn.convert.flax import FlaxCell as FlaxCell
from flax_rnn.convert.flax import from_flax as from_flax
from flax_rnn.convert.flax import to_flax as to_flax
from flax_rnn.convert.keras import load as load
from flax_rnn.convert.layouts import LayerWeights as LayerWeights
from flax_rnn.convert.lists import from_keras as from_keras
from flax_rnn.convert.lists import to_keras as to_keras
from flax_rnn.convert.safetensors import load_safetensors as load_safetensors
from flax_rnn.convert.safetensors import save_safetensors as save_safetensors
from flax_rnn.convert.saving import save as save
from flax_rnn.convert.torch import from_torch as from_torch
from flax_rnn.convert.torch import to_torch as to_torch
from flax_rnn.convert.torch_models import load_torch as load_torch
