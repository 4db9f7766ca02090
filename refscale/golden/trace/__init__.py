"""Traces: a training step of your own program, recorded call by call, and checked op by op on its own arrays.

Golden vectors test a kernel on inputs that refscale defines. A trace tests a whole step on the inputs that occurred:

1. ``Recorder`` (``recorder``) writes each call of the program: the op, its attributes, α, β, and its arrays. It accepts
   NumPy arrays and PyTorch tensors; ``record_run`` records a run of refscale.
2. ``judge`` (``judge``) replays each call on the recorded inputs and compares the recorded results with the interval
   that the bound of the op (``Op.bound``) allows under the policy of the call.
3. If every call is within its bound, every result of the step follows from its inputs as specified. Otherwise the
   deviation begins at the first call outside its bound: its inputs are the program's own, so errors of earlier calls
   do not count.

A fused kernel is one call of several steps: only its inputs and its last results are recorded and compared.

The directory (``schema``) contains ``trace.json`` and one ``.npy`` file per array; any language can write it.
"""

from refscale.golden.trace.judge import CallResult, Deviation, TraceResult, in_words, judge, to_content
from refscale.golden.trace.recorder import RecordedCall, Recorder, record_run
from refscale.golden.trace.schema import SCHEMA, Trace, TracedCall, load_trace

__all__ = [
    "SCHEMA",
    "CallResult",
    "Deviation",
    "RecordedCall",
    "Recorder",
    "Trace",
    "TraceResult",
    "TracedCall",
    "in_words",
    "judge",
    "load_trace",
    "record_run",
    "to_content",
]
