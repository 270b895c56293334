"""Convert a checkpoint of the released variant back to the layout of the released ETRIS code.

    python tools/model_converters/mmetris_to_etris.py converted/model.pth published.pth

A file that etris_to_mmetris.py wrote returns to what it came from, bit by bit. One that was trained here gets defaults
for what mmetris has no use for: ``logit_scale`` ln 100, as in OpenAI's CLIP, and the epoch it was saved at.
"""

from __future__ import annotations

from mmetris.apis.conversion import convert_back
from mmetris.models.converters import ETRIS

if __name__ == '__main__':
    convert_back(ETRIS)
