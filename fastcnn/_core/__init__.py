"""Compiled code: arrays are already checked here. Only ``fastcnn.nn`` and ``fastcnn.runtime`` import it."""

try:
    import fastcnn._core._runtime  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f"{__path__[0]} holds sources that are not compiled: run Python from another folder to import the installed "
        "fastcnn, or pip install -e . to compile these"
    ) from error
