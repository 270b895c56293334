"""RefSegRS's files: phrases in a text file for each split, images and masks called by a number."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmetris.datasets import MixedRefDataset, RefSegRSDataset

SIZE = (24, 32)


def write_refsegrs(root, **phrases):
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True)
    for number in (1, 2, 3):
        mask = np.zeros(SIZE, np.uint8)
        mask[: 4 * number, :8] = 255
        Image.fromarray(np.full((*SIZE, 3), 60 * number, np.uint8)).save(root / 'images' / f'{number}.tif')
        Image.fromarray(np.stack([mask] * 3, 2) if number == 2 else mask).save(root / 'masks' / f'{number}.tif')
    for split, lines in phrases.items():
        (root / f'output_phrase_{split}.txt').write_text(lines, newline='')
    return root


def test_phrases_images_and_masks_belong_together(tmp_path):
    root = write_refsegrs(tmp_path, train='1 road along the field \r\n\r\n2 the van\r\n1 a road', val='3 bus\n')
    dataset = RefSegRSDataset(str(root))
    found = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [record['expressions'] for record in found] == [['road along the field', 'a road'], ['the van']]
    # A mask of three equal channels is one of grey.
    assert [int(coco_mask.area(record['segmentation'])) for record in found] == [4 * 8, 8 * 8]
    assert found[1]['img_path'] == str(root / 'images' / '2.tif') and dataset.split_names() == ['train', 'val']
    assert RefSegRSDataset(str(root), split='val').get_data_info(0)['expressions'] == ['bus']


def test_images_of_val_are_left_out_of_a_mixture(tmp_path):
    root = write_refsegrs(tmp_path, train='1 road\n2 van', val='2 bus')
    mixed = MixedRefDataset([RefSegRSDataset(str(root))])
    assert [mixed.get_data_info(index)['img_id'] for index in range(len(mixed))] == ['1.tif']


@pytest.mark.parametrize(
    'line, message',
    [
        ('2', 'output_phrase_train.txt, line 2: the sentence is empty'),
        ('9 a road', 'output_phrase_train.txt, line 2: image .*9.tif does not exist'),
        ('../1 a road', 'line 2: image .* must be a path inside of'),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, line, message):
    root = write_refsegrs(tmp_path, train=f'1 road\n{line}', val='\n')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        RefSegRSDataset(str(root))
    with pytest.raises(ValueError, match='output_phrase_val.txt has no line'):
        RefSegRSDataset(str(root), split='val')
    with pytest.raises(FileNotFoundError, match="phrases of split 'test'. Present: train, val"):
        RefSegRSDataset(str(root), split='test')
