"""Makes ``python -m fastcnn`` the same as the command ``fastcnn``."""

from fastcnn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
