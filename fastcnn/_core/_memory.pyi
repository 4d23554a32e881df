"""Memory of arrays that come and go."""

class Context:
    """Within it new arrays of this thread have their memory as its handler says."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

class Reusing(Context):
    """A context in which new arrays of this thread have memory that others leave to them."""

class Keeping(Context):
    """A context in which new arrays of this thread, which stay for long, have memory of their own."""

def release() -> None: ...
def held() -> tuple[int, int]: ...
