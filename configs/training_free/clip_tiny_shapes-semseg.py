"""The tiny CLIP by class names, without training, Shapes: 56 names of colour and shape, and a background.

    python tools/dataset_tools/make_shapes.py data/shapes_semseg --layout semseg
    python tools/test.py configs/training_free/clip_tiny_shapes-semseg.py

No row of a paper. Results in docs/training_free.md.
"""

_base_ = [
    '../_base_/models/clip_training_free.py',
    '../_base_/datasets/shapes_semseg.py',
    '../_base_/schedules/no_training.py',
    '../_base_/semseg_runtime.py',
]

arch = dict(
    embed_dim=64,
    quick_gelu=True,
    vision_cfg=dict(image_size=128, width=16, head_width=32, layers=[1, 1, 1, 1]),
    text_cfg=dict(context_length=77, vocab_size=49408, width=48, heads=4, layers=4),
)
colours = ('red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink')
shapes = ('circle', 'square', 'triangle', 'star', 'ring', 'cross', 'heart')
model = dict(
    data_preprocessor=dict(size_divisor=32),
    dual_encoder=dict(_delete_=True, arch=arch, clip_checkpoint='pretrained/tiny_clip_resnet.safetensors'),
    backbone=dict(_delete_=True, type='DenseCLIPResNet', attention='maskclip'),
    vocabulary=dict(
        classes=['background', *(f'{colour} {shape}' for colour in colours for shape in shapes)],
        templates=['the {}'],
        background=0,
    ),
    background_cosine=0.45,  # Chosen on val.
    test_cfg=dict(_delete_=True, mode='whole'),
)
train_dataloader = None
# One by one: pictures of 96x128 and 128x96 in one batch would be padded, which a map of 4x4 cells feels.
val_dataloader = dict(batch_size=1)
test_dataloader = dict(batch_size=1)
