"""Convert a checkpoint of DETRIS back to the layout of DETRIS's code.

    python tools/model_converters/mmetris_to_detris.py converted/model.pth published.pth

A file that detris_to_mmetris.py wrote returns to what it came from, bit by bit. One that was trained here gets defaults
for what mmetris has no use for: ``logit_scale`` ln 100, as in OpenAI's CLIP, and the epoch it was saved at. It lacks
CLIP's image tower and DINOv2's ``mask_token``, which DETRIS's code has in its checkpoints and computes nothing with.
"""

from __future__ import annotations

from mmetris.apis.conversion import convert_back
from mmetris.models.converters import DETRIS

if __name__ == '__main__':
    convert_back(DETRIS)
