"""Files of tasks, and what is written for them."""

from pathlib import Path

from spct_plugin.errors import TaskError


def check_writable(path: Path) -> None:
    """Find out before the work, and not after it, that its result cannot be written.

    Raises:
        TaskError: No file can be made there.
    """
    existed = path.exists()
    if existed and not path.is_file():
        raise TaskError(f"expected a file to write to, found {str(path)!r}, which is none")
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise TaskError(f"cannot write {str(path)!r}: {error.strerror}") from None
    if not existed:
        path.resolve().unlink()
