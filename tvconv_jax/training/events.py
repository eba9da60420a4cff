"""Numbers in TensorBoard's format."""

import sys
import time
from pathlib import Path


class Events:
    """A file of events of its own, which TensorBoard reads beside those of earlier starts.

    Args:
        folder: Where it is written.
        step: First step that is written; what earlier files hold from there on is not shown.
    """

    def __init__(self, folder: Path, step: int) -> None:
        _import_without_torch()
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        folder.mkdir(exist_ok=True)
        # Written here and now: tensorboardX's SummaryWriter hangs once its thread has met a full disk.
        self._file = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def write(self, step: int, name: str, value: float) -> None:
        """Appends a number of one step."""
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=self._scalar(name, value)))

    def flush(self) -> None:
        """Shows TensorBoard what was written."""
        self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


def _import_without_torch() -> None:
    """tensorboardX imports PyTorch where there is one, for seconds and 200 MB that nothing here needs."""
    hidden = sys.modules.setdefault("torch", None) is None  # an import of it fails, as where it is not installed
    try:
        import tensorboardX  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]
