"""Weights that PyTorch or Keras trained, in the order and the layouts of a network of ours: all, or an error.

Neither of the two is needed, and nothing here unpickles, or runs what a file says.
"""

from .keras import keras_weights
from .matching import own_weights
from .torch import torch_weights

__all__ = ["keras_weights", "own_weights", "torch_weights"]
