"""The end of a run: its frames where they were wanted, or else somewhere."""

import tempfile
from pathlib import Path

import numpy as np

from crystools_pipelines.errors import RequestError, SaveError
from crystools_pipelines.runtime.video import write_video
from crystools_tpu.data_dir import FRAMES, data_dir
from crystools_tpu.whole_file import reason


def save_or_keep(frames: np.ndarray, out: Path, fps: int, run_id: str) -> None:
    """Writes the frames to `out`; where that fails, to the data folder as `.npy`, and raises SaveError."""
    try:
        write_video(frames, out, fps)
    except (OSError, RequestError) as error:
        why = error.message if isinstance(error, RequestError) else reason(error)
        kept, why_not = _keep(frames, f"{run_id}.npy")
        raise SaveError(out, why, kept, why_not) from error


def _keep(frames: np.ndarray, name: str) -> tuple[Path | None, str]:
    """Where the frames are now: in the data folder, or else in that for temporary files. Or why nowhere."""
    failures = []
    for folder in (lambda: data_dir() / FRAMES, tempfile.gettempdir):
        try:
            path = Path(folder(), name)
            write_video(frames, path, fps=1)
            return path, ""
        except OSError as error:
            failures.append(reason(error))
    return None, "; ".join(failures)
