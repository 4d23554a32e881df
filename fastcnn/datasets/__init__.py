"""Real pictures with labels: one set that ships inside the package, two that are downloaded."""

from __future__ import annotations

from .digits import load_digits
from .fetch import cache_folder
from .mnist import load_fashion_mnist, load_mnist

__all__ = ["cache_folder", "load_digits", "load_fashion_mnist", "load_mnist"]
