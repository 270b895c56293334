"""Put the frozen CLIP back into a slim checkpoint, for programs that do not know mmetris's slim ones.

python tools/misc/merge_checkpoint.py configs/etris/etris_vitb16_refcoco.py slim.pth full.pth
"""

from slim_checkpoint import main

from mmetris.models.encoders.slim_checkpoint import merge_state_dict

if __name__ == '__main__':
    main('Put the frozen CLIP into a slim checkpoint', merge_state_dict, to_slim=False)
