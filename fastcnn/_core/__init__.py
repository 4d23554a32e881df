"""Compiled code: arrays are already checked here. Only ``fastcnn.nn`` and ``fastcnn.runtime`` import it."""
