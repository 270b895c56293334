"""The sentence's convolution and the dot product, against plain loops."""

import torch
import torch.nn.functional as F

from mmetris.models.decode_heads import DotProductProjector, dynamic_conv


def test_dynamic_convolution_gives_each_sample_its_own_kernel():
    generator = torch.Generator().manual_seed(0)
    for batch, size in ((1, (4, 4)), (3, (5, 7))):
        feature_map = torch.randn(batch, 6, *size, generator=generator)
        weight, bias = torch.randn(batch, 6, 3, 3, generator=generator), torch.randn(batch, generator=generator)
        result = dynamic_conv(feature_map, weight, bias)
        assert result.shape == (batch, 1, *size)
        for i in range(batch):
            alone = F.conv2d(feature_map[i:i + 1], weight[i:i + 1], bias[i:i + 1], padding=1)
            assert torch.allclose(result[i:i + 1], alone, atol=1e-5)


def test_dot_product_by_hand():
    """Sentence (1, 2) projected by ((1, 0), (0, 1), (1, 1), (0, 0)) is (1, 2, 3, 0); over sqrt(4)."""
    projector = DotProductProjector(sentence_channels=2, channels=4)
    with torch.no_grad():
        projector.sentence_projection.weight.copy_(torch.tensor([[1., 0.], [0., 1.], [1., 1.], [0., 0.]]))
        projector.sentence_projection.bias.zero_()
        pixels = torch.tensor([[[1., 0.], [0., 0.], [0., 1.]], [[0., 2.], [5., 0.], [0., 0.]]])  # two channels, (3, 2)
        feature_map = torch.cat((pixels, torch.ones(2, 3, 2)))[None]
        logits = projector(feature_map, torch.tensor([[1., 2.]]))
    expected = (pixels[0] + 2 * pixels[1] + 3) / 2
    assert torch.equal(logits, expected[None, None])
