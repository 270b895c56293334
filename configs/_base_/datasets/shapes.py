"""Shapes: drawn images in RefCOCO's layout, made by ``python tools/dataset_tools/make_shapes.py data/shapes``."""

_base_ = './refcoco.py'

data_root = 'data/shapes/'
input_size = (128, 128)

train_pipeline, test_pipeline = (
    [dict(step, size=input_size) if step.type == 'Letterbox' else step for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline)
)
tta_pipeline = [
    *_base_.tta_pipeline[:-1],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Letterbox', size=(input_size[0] + more, input_size[1] + more)) for more in (-32, 0, 32)],
            *_base_.tta_pipeline[-1].transforms[1:],
        ],
    ),
]

# The images are small and the training meant for a CPU, so each process reads its own data.
loading = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(**loading, batch_size=16, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(**loading, batch_size=32, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(**loading, batch_size=32, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_cfg = dict(splits=['val', 'testA', 'testB'])
