"""Checkpoints: one npz file a checkpoint, written whole or not at all, checked when read.

The file holds ``meta`` (JSON text as bytes: schema, configuration, digest of the data, step, seconds) and the arrays of
a ``TrainState`` under ``parameter/``, ``optimizer/`` and ``scaling/``.  A zip's directory stands at its end and every
member has a checksum, so a file that lost its end or a bit is found out.  Nothing is ever unpickled.
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
"""Raised by one whenever a reader of the former could go wrong."""

KEPT = 2
"""How many checkpoints of a run stay: the last, and one to fall back on."""

_PARTS = ("parameter", "optimizer", "scaling")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        config: of the run.
        data_digest: SHA-256 of the data that the run read, in hexadecimal.
        seconds: of training so far, in all sittings.
        state: after the run's last step so far.
    """

    config: TrainConfig
    data_digest: str
    seconds: float
    state: TrainState

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what determines the trained model's numbers: rules, data and parameters.

        Not of the file, which also holds the run's seconds: the same run, repeated, has the same digest.
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
        path: of the file.
        checkpoint: from ``Run.checkpoint``.

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
        CheckpointError: the file is truncated or damaged, or is no checkpoint of this schema.
        OSError: it cannot be read.
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
    """The arrays of an npz file.  They are stored, not compressed, and so take no more memory than the file is long."""
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
    """Where the checkpoint after ``step`` steps stands in a run's directory."""
    return out / f"checkpoint-{step:08}.npz"


def checkpoints(out: Path) -> list[Path]:
    """The checkpoint files of a run's directory, newest first."""
    return sorted(out.glob("checkpoint-*.npz"), reverse=True)


def drop_old(out: Path) -> None:
    """Remove all but the last ``KEPT`` checkpoints."""
    for path in checkpoints(out)[KEPT:]:
        path.unlink(missing_ok=True)


def newest(out: str | Path) -> Checkpoint:
    """The newest good checkpoint in the directory of a run.

    Raises:
        CheckpointError: there is none; says why each was refused.
        OSError: a file cannot be read.
    """
    refused = []
    for path in checkpoints(Path(out)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            refused.append(str(error))
    raise CheckpointError("; ".join(refused) or f"newest({str(out)!r}): holds no checkpoint")
