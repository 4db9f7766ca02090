"""Published models: files as other libraries write them.

In reading order:

1. ``fields``: ``config.json``.
2. ``tensors``: ``model.safetensors``, which holds arrays and nothing that could be executed.
3. ``subwords``: ``tokenizer.json`` or ``vocab.txt``.

``bert.load_pretrained`` and ``bert.save_pretrained`` put them together.  Needs the optional extra:
``pip install 'refscale[pretrained]'`` (safetensors and tokenizers).
"""

from refscale.published.fields import from_fields, read_json, to_fields
from refscale.published.subwords import SubWords
from refscale.published.tensors import heads, parameters, read_tensors, renamed, to_bytes

__all__ = [
    "SubWords",
    "from_fields",
    "heads",
    "parameters",
    "read_json",
    "read_tensors",
    "renamed",
    "to_bytes",
    "to_fields",
]
