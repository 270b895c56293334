"""RefCocoDataset on a tiny tree in REFER's layout: what becomes a sample, what is drawn when, what is refused."""

import copy
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from mmetris.datasets import RefCocoDataset, refcoco
from mmetris.datasets.transforms import PackSegInputs
from mmetris.registry import DATASETS
from mmetris.utils.file_names import sample_name
from tests.toy_refer import IMAGES, REFS, decode, file_name, segmentations, write_toy_refer

MANY_SENTENCES = [f'sentence {index}' for index in range(40)]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return str(write_toy_refer(tmp_path_factory.mktemp('refer')))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmetris')
    refcoco._reported.clear()


def spoilt(tmp_path, change):
    return str(write_toy_refer(tmp_path, change=change))


def many_sentences(instances, refs):
    """Give the first object forty sentences, so that two draws are rarely the same."""
    refs[0]['sentences'] = [dict(sent_id=index, sent=text, raw=text) for index, text in enumerate(MANY_SENTENCES)]


def drawn(dataset: RefCocoDataset, idx: int = 0) -> str:
    return dataset[idx]['expression']


class TestSamples:
    def test_a_record_holds_what_the_files_say(self, root):
        record = RefCocoDataset(root).get_data_info(2)
        assert record.pop('segmentation')['size'] == [64, 48]
        assert record == dict(
            img_path=f'{root}/train2014/{file_name(12)}',
            img_id=12,
            height=64,
            width=48,
            ref_id=3,
            ann_id=103,
            category_id=1,
            expressions=['the disc'],
            sent_ids=[30],
            sample_idx=2,
            seg_fields=[],
            reduce_zero_label=False,
        )

    def test_each_object_is_a_sample_in_training_also_when_two_share_an_annotation(self, root):
        dataset = RefCocoDataset(root)
        assert [dataset.get_data_info(idx)['ref_id'] for idx in range(len(dataset))] == [1, 2, 3, 4]

    @pytest.mark.parametrize(('split', 'num_sentences'), [('train', 8), ('val', 3), ('testA', 1), ('testB', 2)])
    def test_each_sentence_is_a_sample_in_evaluation_in_the_order_of_the_file(self, root, split, num_sentences):
        dataset = RefCocoDataset(root, split=split, test_mode=True)
        expected = [text for name, _, _, texts in REFS.values() if name == split for text in texts]
        assert [dataset[idx]['expression'] for idx in range(len(dataset))] == expected
        assert len(dataset) == num_sentences

    def test_sentences_have_names_of_their_own_where_ids_start_anew_in_each_object(self, tmp_path):
        """Home-made split files count the sentences of each object from 0; files are named by image and sent_id."""

        def restart(instances, refs):
            for ref in refs:
                ref['split'] = 'val'
                for number, sentence in enumerate(ref['sentences']):
                    sentence['sent_id'] = number

        dataset = RefCocoDataset(spoilt(tmp_path, restart), split='val', test_mode=True)
        names = [sample_name(dataset[index]) for index in range(len(dataset))]
        assert len({name.casefold() for name in names}) == len(names) == 14
        first, second = Path(file_name(11)).stem, Path(file_name(12)).stem
        assert names[:6] == [
            *(f'{first}_{number}' for number in range(3)),
            f'{first}_0_2',
            f'{first}_1_2',
            f'{second}_0',
        ]
        dataset.pipeline = PackSegInputs()
        sample = dict(dataset.get_data_info(3), img=np.zeros((2, 2, 3), np.uint8), expression='x', sample_name=names[3])
        assert sample_name(dataset.pipeline(sample)['data_samples']) == names[3]

    def test_ids_that_do_not_repeat_name_the_sentences_by_themselves(self, root):
        dataset = RefCocoDataset(root, split='val', test_mode=True)
        assert all('sample_name' not in dataset[index] for index in range(len(dataset)))

    def test_first_and_joined_sentences_on_request(self, root):
        assert drawn(RefCocoDataset(root, text_mode='select_first')) == 'the left square'
        joined = RefCocoDataset(root, text_mode='concat')
        assert len(joined) == 4 and drawn(joined, 1) == 'two bars the bars on the right'

    def test_raw_text_on_request(self, root):
        assert drawn(RefCocoDataset(root, text_field='raw', text_mode='select_first')) == 'The left square.'

    def test_the_sentence_comes_with_its_id(self, root):
        sample = RefCocoDataset(root, text_mode='original')[4]
        assert (sample['expression'], sample['sent_id'], sample['ref_id']) == ('the bars on the right', 21, 2)

    def test_the_image_name_comes_from_the_annotations(self, tmp_path):
        def change(instances, refs):
            for ref in refs:
                ref['file_name'] = 'no_such_image.jpg'

        assert RefCocoDataset(spoilt(tmp_path, change)).get_data_info(0)['img_path'].endswith(file_name(11))

    def test_absolute_paths_and_other_folders_work(self, root, tmp_path):
        write_toy_refer(tmp_path, name='refcocog', split_by='umd')
        dataset = RefCocoDataset(
            ann_file=f'{root}/refcoco/instances.json',
            split_file=f'{tmp_path}/refcocog/refs(umd).p',
            data_prefix=dict(img_path=f'{root}/train2014'),
        )
        assert len(dataset) == 4

    def test_base_dataset_arguments_work(self, root):
        assert len(RefCocoDataset(root, indices=2)) == 2
        lazy = RefCocoDataset(root, lazy_init=True)
        assert not lazy._fully_initialized and lazy.metainfo['classes'] == ('background', 'referred object')
        assert len(RefCocoDataset(root, serialize_data=False)) == 4
        assert RefCocoDataset(root).get_cat_ids(1) == [102 % 3]

    def test_it_is_built_by_name_from_mmseg_s_scope_too(self, root):
        assert isinstance(DATASETS.build(dict(type='RefCocoDataset', data_root=root)), RefCocoDataset)
        from mmseg.registry import DATASETS as MMSEG_DATASETS

        assert isinstance(MMSEG_DATASETS.build(dict(type='mmetris.RefCocoDataset', data_root=root)), RefCocoDataset)

    def test_records_are_kept_as_bytes_that_workers_can_share(self, root):
        dataset = RefCocoDataset(root)
        assert dataset.data_list == [] and dataset.data_bytes.nbytes > 0


class TestMasks:
    @pytest.mark.parametrize('serialize_data', [True, False])
    @pytest.mark.parametrize('split', ['train', 'val', 'testA', 'testB'])
    def test_a_record_has_the_drawn_mask_as_compressed_rle(self, root, split, serialize_data):
        dataset = RefCocoDataset(root, split=split, test_mode=True, serialize_data=serialize_data)
        for idx in range(len(dataset)):
            record = dataset.get_data_info(idx)
            height_and_width = IMAGES[record['img_id']]
            assert record['segmentation']['size'] == list(height_and_width)
            assert isinstance(record['segmentation']['counts'], bytes)
            expected = decode(segmentations()[record['ann_id']], *height_and_width)
            np.testing.assert_array_equal(coco_mask.decode(record['segmentation']), expected)

    @pytest.fixture
    def drawings(self, monkeypatch):
        """Arguments of each call that draws, as a list that grows."""
        calls, draw = [], coco_mask.frPyObjects
        monkeypatch.setattr(coco_mask, 'frPyObjects', lambda *args: calls.append(args) or draw(*args))
        return calls

    def test_masks_are_drawn_while_reading_and_never_again(self, root, drawings):
        dataset = RefCocoDataset(root, pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')])
        # Refs 1 and 2 have polygons; 3 and 4 have compressed RLE already.
        assert [args[0] for args in drawings] == [segmentations()[101], segmentations()[102]]
        samples = [dataset[idx] for _ in range(2) for idx in range(len(dataset))]
        assert len(drawings) == 2
        for sample in samples:
            expected = decode(segmentations()[sample['ann_id']], *IMAGES[sample['img_id']])
            np.testing.assert_array_equal(sample['gt_seg_map'], expected)

    def test_a_mask_is_drawn_once_for_all_sentences_of_its_object(self, root, drawings):
        assert len(RefCocoDataset(root, split='val', text_mode='original')) == 3
        assert len(drawings) == 1


class TestDraw:
    @pytest.fixture
    def dataset(self, tmp_path):
        return RefCocoDataset(spoilt(tmp_path, many_sentences))

    def test_each_epoch_draws_anew_and_the_same_epoch_draws_the_same(self, dataset):
        def draws():
            result = []
            for epoch in range(8):
                dataset.set_epoch(epoch)
                result.append(drawn(dataset))
            return result

        first = draws()
        assert first == draws()
        assert len(set(first)) > 3

    def test_draws_depend_on_the_seed_only_beside_epoch_and_sample(self, dataset):
        def draws(seed):
            other = RefCocoDataset(dataset.data_root, seed=seed)
            result = []
            for epoch in range(8):
                other.set_epoch(epoch)
                result.append(drawn(other))
            return result

        assert draws(1) == draws(1) != draws(2)

    def test_the_samples_of_an_epoch_draw_independently(self, tmp_path):
        def forty_each(instances, refs):
            for ref in refs:
                ref['sentences'] = [dict(sent_id=index, sent=text) for index, text in enumerate(MANY_SENTENCES)]

        dataset = RefCocoDataset(spoilt(tmp_path, forty_each))
        dataset.set_epoch(0)
        assert len({drawn(dataset, idx) for idx in range(len(dataset))}) > 1

    def test_every_sentence_is_drawn_about_equally_often(self, root):
        dataset = RefCocoDataset(root)
        counts = dict.fromkeys(REFS[1][3], 0)
        for epoch in range(600):
            dataset.set_epoch(epoch)
            counts[drawn(dataset)] += 1
        assert all(150 < count < 250 for count in counts.values()), counts

    def test_without_an_epoch_numpy_s_state_decides(self, dataset):
        np.random.seed(3)
        first = [drawn(dataset) for _ in range(6)]
        np.random.seed(3)
        assert first == [drawn(dataset) for _ in range(6)] and len(set(first)) > 1

    def test_workers_that_already_run_see_the_epoch_and_draw_as_the_main_process(self, dataset):
        loader = DataLoader(
            dataset, batch_size=1, num_workers=2, persistent_workers=True, collate_fn=lambda batch: batch[0]
        )
        seen = []
        for epoch in range(4):
            dataset.set_epoch(epoch)
            seen.append([sample['expression'] for sample in loader])
            assert seen[-1] == [drawn(dataset, idx) for idx in range(len(dataset))]
        assert len({draws[0] for draws in seen}) > 1
        loader._iterator._shutdown_workers()

    @pytest.mark.parametrize('derive', [copy.deepcopy, lambda dataset: dataset.get_subset([0, 1])])
    def test_a_copy_has_an_epoch_of_its_own_in_shared_memory(self, dataset, derive):
        dataset.set_epoch(5)
        other = derive(dataset)
        other.set_epoch(7)
        assert (dataset._epoch.value, other._epoch.value) == (5, 7)
        process = multiprocessing.get_context('fork').Process(target=other.set_epoch, args=(9,))
        process.start()
        process.join()
        assert other._epoch.value == 9

    def test_the_data_set_can_be_pickled(self, dataset):
        dataset.set_epoch(2)
        other = pickle.loads(pickle.dumps(dataset))
        assert drawn(other) == drawn(dataset)


class TestBadInput:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(text_mode='all'), "text_mode must be one of random, original, select_first, concat, but is 'all'"),
            (dict(text_field='tokens'), "'sent' or 'raw', but is 'tokens'"),
            (dict(seed=-1), 'not be negative'),
            (dict(split='test'), r"refs\(unc\).p has no split 'test'. Present: train"),
        ],
    )
    def test_unknown_values_are_refused(self, root, arguments, message):
        with pytest.raises(ValueError, match=message):
            RefCocoDataset(root, **arguments)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (
                dict(data_root='/no/such/root'),
                'data_root /no/such/root does not exist. Expected: .*instances.json.*train2014',
            ),
            (dict(ann_file='refcoco/gone.json'), 'refcoco/gone.json does not exist. Expected there: COCO annotations'),
            (dict(split_file='refcoco/gone.p'), 'refcoco/gone.p does not exist. Expected there: a pickled list'),
            (
                dict(data_prefix=dict(img_path='val2014')),
                'Image folder .*val2014 does not exist. Expected there: COCO_train2014',
            ),
        ],
    )
    def test_missing_files_are_named_with_what_belongs_there(self, root, arguments, message):
        with pytest.raises(FileNotFoundError, match=message):
            RefCocoDataset(**dict(dict(data_root=root), **arguments))

    def test_missing_images_are_counted_and_the_first_is_named(self, tmp_path):
        write_toy_refer(tmp_path)
        for image_id in (11, 12):
            (tmp_path / 'train2014' / file_name(image_id)).unlink()
        with pytest.raises(
            FileNotFoundError, match=rf"2 images of split 'train' .*{file_name(11)} \(ref_id 1 in .*image_id 11"
        ):
            RefCocoDataset(str(tmp_path))
        assert len(RefCocoDataset(str(tmp_path), split='val')) == 1

    @pytest.mark.parametrize(
        ('spoil', 'message'),
        [
            (
                lambda instances, refs: refs[1].update(ann_id=999),
                r'refs\(unc\).p: ref_id 2 refers to ann_id 999, which is not in .*instances',
            ),
            (lambda instances, refs: refs[1].update(image_id=99), 'ref_id 2 refers to image_id 99, which is not in'),
            (
                lambda instances, refs: refs[1].update(image_id=12),
                'ref_id 2 is on image_id 12, but its ann_id 102 is on image_id 11',
            ),
            (
                lambda instances, refs: refs[2]['sentences'][0].update(sent=' '),
                "ref_id 3, sent_id 30 has an empty sentence .'sent': ' '",
            ),
            (lambda instances, refs: refs[2]['sentences'][0].pop('sent'), 'ref_id 3, sent_id 30 has an empty sentence'),
            (lambda instances, refs: refs[2].update(sentences=[]), 'ref_id 3 has no sentences'),
            (lambda instances, refs: refs[2].update(sentences=['the disc']), 'ref_id 3 has a sentence that is no dict'),
            (
                lambda instances, refs: instances['images'][0].pop('height'),
                "instances.json: ann_id 101 or its image_id 11 has no 'height'",
            ),
            (
                lambda instances, refs: instances['images'][0].update(file_name=None),
                'instances.json: file_name None of image_id 11 is none',
            ),
            (
                lambda instances, refs: instances['annotations'][0].pop('segmentation'),
                "ann_id 101 .*has no 'segmentation'",
            ),
            (
                lambda instances, refs: instances['annotations'][2].update(segmentation=dict(size=[3, 3], counts=[9])),
                'instances.json: the mask of ann_id 103 cannot be read: its RLE has size',
            ),
            (
                lambda instances, refs: instances['annotations'][2].update(segmentation=5),
                'the mask of ann_id 103 cannot be read',
            ),
        ],
    )
    def test_inconsistent_files_are_refused_with_file_and_key(self, tmp_path, spoil, message):
        with pytest.raises(ValueError, match=message):
            RefCocoDataset(spoilt(tmp_path, spoil))

    def test_a_pickle_with_code_is_refused(self, tmp_path):
        def change(instances, refs):
            refs[0]['split'] = print

        with pytest.raises(
            pickle.UnpicklingError, match=r'refs\(unc\).p: refused, because it names (builtins|__builtin__).print'
        ):
            RefCocoDataset(spoilt(tmp_path, change))

    def test_objects_without_a_pixel_are_left_out_of_training_and_kept_for_evaluation(self, tmp_path, caplog_mmengine):
        def change(instances, refs):
            instances['annotations'][0]['segmentation'] = [[3, 3, 3, 9, 3, 3]]
            instances['annotations'][4]['segmentation'] = []
            instances['images'][2].pop('file_name')  # of another split: nothing to do with this one

        path = spoilt(tmp_path, change)
        train = RefCocoDataset(path)
        assert [train.get_data_info(idx)['ref_id'] for idx in range(len(train))] == [2, 3, 4]
        assert len(RefCocoDataset(path, test_mode=True)) == 8
        messages = [text for text in caplog_mmengine if 'without any pixel' in text]
        with pytest.raises(ValueError, match="No object is left in split 'testA'"):
            RefCocoDataset(path, split='testA')
        assert len(messages) == 2 and all('1 of 4 objects' in text and 'ref_id: 1' in text for text in messages)
        assert 'left out' in messages[0] and 'kept' in messages[1]


@pytest.fixture
def caplog_mmengine(monkeypatch):
    """What the data set logs, as a list that grows."""
    messages = []
    monkeypatch.setattr(refcoco, 'print_log', lambda message, **kwargs: messages.append(message))
    return messages


class TestCutSentences:
    def pipeline(self, context_length):
        return [dict(type='TokenizeExpression', context_length=context_length)]

    def test_they_are_counted_and_reported_once(self, root, caplog_mmengine):
        for _ in range(2):
            RefCocoDataset(root, test_mode=True, pipeline=self.pipeline(5))
        # 'the left square' has five tokens; longer ones: two of ref 1 and 2, one of ref 4.
        assert len(caplog_mmengine) == 1
        assert "3 of 8 sentences in split 'train'" in caplog_mmengine[0]
        assert 'longer than 5 tokens and are cut; the longest has 7' in caplog_mmengine[0]

    def test_nothing_is_said_where_all_fit_or_nothing_is_tokenized(self, root, caplog_mmengine):
        RefCocoDataset(root, pipeline=self.pipeline(17))
        RefCocoDataset(root)
        assert caplog_mmengine == []

    def test_they_are_found_under_test_time_augmentation(self, root, caplog_mmengine):
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        RefCocoDataset(root, pipeline=[dict(type='TestTimeAug', transforms=[flips, self.pipeline(5)])])
        assert len(caplog_mmengine) == 1

    def test_a_cut_sentence_still_ends_with_eos(self, root):
        sample = RefCocoDataset(root, text_mode='select_first', pipeline=self.pipeline(4))[0]
        assert sample['tokens'][-1] == 49407


def test_counts_other_than_published_are_reported_once_for_files_of_that_size(root, caplog_mmengine, monkeypatch):
    RefCocoDataset(root)
    assert caplog_mmengine == []  # a small data set in RefCOCO's place
    monkeypatch.setattr(refcoco, '_MIN_PUBLISHED_OBJECTS', 1)
    for split in ('train', 'val'):
        RefCocoDataset(root, split=split)
    assert len(caplog_mmengine) == 1
    assert 'published as refcoco (unc): train has 4 objects, published are 42404' in caplog_mmengine[0]


def test_sizes_of_the_toy_images_are_those_of_the_files(root):
    import cv2

    for image_id, (height, width) in IMAGES.items():
        assert cv2.imread(f'{root}/train2014/{file_name(image_id)}').shape == (height, width, 3)
