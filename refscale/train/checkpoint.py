"""Checkpoints: one npz file each, written atomically and checked when read.

The file contains ``meta`` (JSON text as bytes: schema, configuration, digest of the data, step, seconds) and the arrays
of a ``TrainState`` under ``parameter/``, ``optimizer/`` and ``scaling/``. A zip has its directory at the end and a
checksum for every member, so truncation and damage are detected. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import freeze, plain
from refscale.errors import CheckpointError, RefscaleError
from refscale.files import json_text, npy_array, parse_json, write_npz
from refscale.records import check_schema, record_content
from refscale.train.config import TrainConfig
from refscale.train.state import TrainState

SCHEMA = "refscale.checkpoint/2"
"""Schema of a checkpoint; its number increases if a reader of the old schema could misread the new one."""

KEPT = 2
"""Number of checkpoints that a run keeps: the last, and one more in case it is damaged."""

_PARTS = ("parameter", "optimizer", "scaling")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        config: configuration of the run.
        data_digest: SHA-256 of the run's data, in hexadecimal.
        seconds: seconds of training so far, over all sessions.
        state: state after the last completed step.
    """

    config: TrainConfig
    data_digest: str
    seconds: float
    state: TrainState

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of rules, data and parameters, which determine the trained model's numbers.

        It is not the hash of the file, which also has the run's seconds: a repeated run has the same digest.
        """
        rules = [self.config.model, self.config.scheme, self.config.constraint, self.data_digest]
        digest = hashlib.sha256(json_text(rules).encode())
        for name, x in sorted(self.state.parameters.items()):
            digest.update(json_text([name, x.dtype.str, x.shape]).encode())
            digest.update(x.tobytes())
        return digest.hexdigest()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: path of the file.
        checkpoint: result of ``Run.checkpoint``.

    Raises:
        CarrierError: an array of the state is masked or a matrix.
        OSError: the file cannot be written.
    """
    state = checkpoint.state
    content = {
        "config": asdict(checkpoint.config),
        "data": checkpoint.data_digest,
        "step": state.step,
        "seconds": checkpoint.seconds,
    }
    meta = record_content(SCHEMA, content)
    arrays: dict[str, NDArray[Any]] = {"meta": np.frombuffer(json_text(meta).encode(), np.uint8)}
    for part, values in zip(_PARTS, (state.parameters, state.optimizer, state.scaling), strict=True):
        arrays |= {f"{part}/{name}": plain("save_checkpoint", name, value) for name, value in values.items()}
    write_npz(path, arrays)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: the file is truncated or damaged, or is not a checkpoint of this schema.
        OSError: the file cannot be read.
    """
    call = f"load_checkpoint({str(path)!r})"
    try:
        arrays = _read(Path(path))
        meta = parse_json(arrays.pop("meta").tobytes(), "meta")
        check_schema(meta, SCHEMA, call, CheckpointError)
        config = TrainConfig.from_mapping(meta["config"], call)
        parts = {part: _under(part, arrays) for part in _PARTS}
        state = TrainState(int(meta["step"]), parts["parameter"], parts["optimizer"], parts["scaling"])
        return Checkpoint(config, str(meta["data"]), float(meta["seconds"]), state)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = error if isinstance(error, RefscaleError) else f"{type(error).__name__} {error}"
        raise CheckpointError(f"{call}: truncated, damaged or no checkpoint at all: {reason}") from error


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file; they are uncompressed, so they need no more memory than the file's size."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise ValueError("a compressed array, expected stored ones")
        if sum(m.file_size for m in members) > path.stat().st_size:
            raise ValueError("arrays that are longer than the file")
        return {m.filename.removesuffix(".npy"): freeze(npy_array(file.read(m)).copy("K")) for m in members}


def _under(part: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def checkpoint_path(out: Path, step: int) -> Path:
    """Return the path of the checkpoint after ``step`` steps in a run's directory."""
    return out / f"checkpoint-{step:08}.npz"


def checkpoints(out: Path) -> list[Path]:
    """Return the checkpoint files of a run's directory, newest first."""
    return sorted(out.glob("checkpoint-*.npz"), reverse=True)


def drop_old(out: Path) -> None:
    """Remove all but the last ``KEPT`` checkpoints."""
    for path in checkpoints(out)[KEPT:]:
        path.unlink(missing_ok=True)


def newest(out: str | Path) -> Checkpoint:
    """Load the newest valid checkpoint in the directory of a run.

    Raises:
        CheckpointError: there is none; the message has the reason for each refused file.
        OSError: a file cannot be read.
    """
    refused = []
    for path in checkpoints(Path(out)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            refused.append(str(error))
    raise CheckpointError("; ".join(refused) or f"newest({str(out)!r}): contains no checkpoint")
