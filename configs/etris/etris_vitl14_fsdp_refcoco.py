"""ETRIS, CLIP ViT-L/14, RefCOCO, spread over the processes: each keeps a share of parameters and optimizer (FSDP).

    bash tools/dist_train.sh configs/etris/etris_vitl14_fsdp_refcoco.py 2 --amp

The paper has no such row, and this was not run at full size; with a toy model two processes end where DDP ends
(tests/test_engine/test_strategies.py). The same two settings spread any other config. Checkpoints are files as DDP
writes them, for tools/test.py and for resuming with either.
"""

_base_ = './etris_vitl14_refcoco.py'

runner_type = 'mmetris.RefSegFlexibleRunner'
strategy = dict(type='mmetris.RefSegFSDPStrategy')
