"""Frozen CLIP ViT-B/16 for pictures of one's own: classes that are named, or a sentence (docs/training_free.md).

    mmetris download clip-vitb16_training-free
    mmetris segment photo.jpg --classes "person, dog, grass" --model clip-vitb16_training-free --out-file classes.png
    mmetris segment photo.jpg "the man in red" --model clip-vitb16_training-free --out-file man.png

Where no classes are named they are those of ADE20K. Here: not run on CLIP's own weights.
"""

_base_ = './clip_vitb16_ade20k.py'
