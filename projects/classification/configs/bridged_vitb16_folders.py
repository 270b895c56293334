"""A classifier on CLIP ViT-B/16, any data set of folders (classes are its folders).

    CLASSES_ROOT=data/pets bash tools/dist_train.sh projects/classification/configs/bridged_vitb16_folders.py 1

Not run here.
"""

_base_ = [
    '../../../configs/_base_/models/etris_vitb16.py',
    './_base_/folders.py',
    './_base_/schedule.py',
    './_base_/runtime.py',
]

from importlib import import_module

classification = import_module('projects.classification.classification.configs')

model = classification.classifier(
    _base_.model,
    vocabulary=dict(templates=['a photo of a {}.']),
    # A thousand names would attend to each other at every step; a hundred give enough to choose from.
    max_train_classes=100,
)
