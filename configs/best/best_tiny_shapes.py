"""The layout of best_large_mixed.py in miniature, Shapes, to be compared with detris_tiny_shapes.py.

    bash tools/dist_train.sh configs/best/best_tiny_shapes.py 1

No row of a paper. Meant for one CPU core and ten minutes; the result is in README.md.
"""

_base_ = './detris_tiny_shapes.py'

model = dict(
    data_preprocessor=dict(size_divisor=2 * 12),
    # Four stages of both encoders, of which the last three have a Bridger.
    text_encoder=dict(num_stages=4),
    neck=dict(
        type='TextFirstBridger', embed_dims=32, num_heads=4, ffn_dims=64, dropout=0, scales=(0.5, 1, 2), zoom_norm=True
    ),
    decode_head=dict(stride=6),
)
