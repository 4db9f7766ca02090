"""Published models: model files of other libraries, and adaptation of a trained model to unit scale.

In reading order:

1. ``fields``: ``config.json``.
2. ``storage``: ``model.safetensors`` or shards, which contain arrays only, no executable code.
3. ``tensors``: conversion between published and refscale names and layouts of tensors.
4. ``subwords``: ``tokenizer.json`` or ``vocab.txt``.
5. ``pretrained``: loading of a BERT from a directory of these files, and saving.
6. ``adapt``: adaptation of a trained regular BERT: a unit-scaled BERT of the same function.

Files need the optional extra: ``pip install 'refscale[pretrained]'`` (safetensors and tokenizers).
"""

from refscale.adapt import Adapted
from refscale.published.adapt import adapt
from refscale.published.fields import from_fields, to_fields
from refscale.published.pretrained import Pretrained, from_published, load_pretrained, save_pretrained
from refscale.published.storage import read_tensors
from refscale.published.subwords import SubWords
from refscale.published.tensors import heads, parameters, renamed, to_bytes

__all__ = [
    "Adapted",
    "Pretrained",
    "SubWords",
    "adapt",
    "from_fields",
    "from_published",
    "heads",
    "load_pretrained",
    "parameters",
    "read_tensors",
    "renamed",
    "save_pretrained",
    "to_bytes",
    "to_fields",
]
