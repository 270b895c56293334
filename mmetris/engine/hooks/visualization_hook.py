"""Pictures of predictions during validation and testing, one file for each sentence."""

from __future__ import annotations

import os.path as osp
import warnings
from collections.abc import Sequence

import numpy as np
from mmengine.dist import get_rank
from mmengine.fileio import get
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend, Visualizer
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.structures import SegDataSample

from mmetris.registry import HOOKS
from mmetris.utils.file_names import sample_name
from mmetris.utils.image_io import decode_image
from mmetris.visualization.local_visualizer import RefSegLocalVisualizer, write_picture


@HOOKS.register_module()
class RefSegVisualizationHook(SegVisualizationHook):
    """Draw image, sentence, predicted and true mask, in the place of MMSegmentation's
    ``SegVisualizationHook``.

    That one names pictures by the image alone, so that the sentences of one image overwrite each other, and
    only the first process draws. Here a picture is ``<image>_<sent_id>.png`` (``<image>_<sample_idx>.png``
    where sentences have no ids), and in testing every process draws the samples it has predicted.

    In validation a few samples go to the visualization backends under the iteration as step, so that one can
    follow how a mask develops. In testing pictures are files; those of the first process also go to backends such as
    TensorBoard and WandB (not to the local one, which would write the same files again).

    Args:
        draw: Whether to draw anything; test tools switch it on by ``--show-dir``. Defaults to False.
        interval: In validation, draw every so-manieth sample of the data set. Defaults to 50.
        max_count: In validation, draw at most so many. Defaults to 16; None for no limit.
        test_interval: In testing, draw every so-manieth sample of the data set. Defaults to 1.
        test_max_count: In testing, draw at most so many. Defaults to None, no limit.
        out_dir: Folder for the pictures of testing; a relative one is in ``<work dir>/<time stamp>``.
            Defaults to None, the visualizer's ``save_dir``, which ``--show-dir`` sets, or ``vis_test`` if
            that was not set.
        show: Whether to open a window for each picture, on the first process. Defaults to False.
        wait_time: Seconds a window stays, 0 until a key is pressed. Defaults to 0.
        backend_args: Arguments of MMEngine's file backend that reads the images. Defaults to None.

    Raises:
        ValueError: If an interval is not positive.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int = 50,
        max_count: int | None = 16,
        test_interval: int = 1,
        test_max_count: int | None = None,
        out_dir: str | None = None,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict | None = None,
    ) -> None:
        if interval < 1 or test_interval < 1:
            raise ValueError(f'Intervals are at least 1, but got interval={interval}, test_interval={test_interval}')
        with warnings.catch_warnings():
            # The base class warns at each start that nothing is drawn unless asked for, which is what the
            # default says.
            warnings.filterwarnings('ignore', message='The draw is False')
            super().__init__(draw, interval, show, wait_time, backend_args)
        self.max_count = max_count
        self.test_interval = test_interval
        self.test_max_count = test_max_count
        self.out_dir = out_dir
        self._num_seen = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Start counting samples anew."""
        self._num_seen = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Start counting samples anew."""
        self._num_seen = 0

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[SegDataSample]
    ) -> None:
        """Draw chosen samples of a validation batch to the backends.

        Args:
            runner: The runner.
            batch_idx: Not used.
            data_batch: Not used.
            outputs: Data samples with predictions.
        """
        if not self.draw:
            return
        for data_sample in self._chosen(outputs, self.interval, self.max_count):
            runner.visualizer.add_datasample(
                sample_name(data_sample),
                self._image_of(data_sample),
                data_sample,
                show=self.show,
                wait_time=self.wait_time,
                step=runner.iter,
            )

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[SegDataSample]
    ) -> None:
        """Write pictures of a test batch.

        Args:
            runner: The runner.
            batch_idx: Not used.
            data_batch: Not used.
            outputs: Data samples with predictions.
        """
        if not self.draw:
            return
        out_dir = self._test_dir(runner)
        for data_sample in self._chosen(outputs, self.test_interval, self.test_max_count):
            name, image = sample_name(data_sample), self._image_of(data_sample)
            out_file = osp.join(out_dir, f'{name}.png')
            if isinstance(runner.visualizer, RefSegLocalVisualizer) and data_sample.get('expression'):
                # Not `add_datasample`, which would do nothing on all processes but the first.
                picture = runner.visualizer.draw_datasample(image, data_sample)
                write_picture(picture, out_file)
                self._hand_to_backends(runner.visualizer, name, picture)
                if self.show and get_rank() == 0:
                    runner.visualizer.show(picture, win_name=name, wait_time=self.wait_time)
            else:
                runner.visualizer.add_datasample(
                    name, image, data_sample, show=self.show, wait_time=self.wait_time, out_file=out_file
                )

    @staticmethod
    def _hand_to_backends(visualizer: Visualizer, name: str, picture: np.ndarray) -> None:
        if get_rank() != 0:
            return
        for backend in visualizer._vis_backends.values():
            if not isinstance(backend, LocalVisBackend):
                backend.add_image(name, picture, step=0)

    def _chosen(
        self, data_samples: Sequence[SegDataSample], interval: int, max_count: int | None
    ) -> list[SegDataSample]:
        """The samples to draw: by their place in the data set, so that any number of processes chooses the
        same."""
        chosen = []
        for data_sample in data_samples:
            place = data_sample.get('sample_idx')
            if place is None:
                place = self._num_seen
            self._num_seen += 1
            count, rest = divmod(int(place), interval)
            if rest == 0 and (max_count is None or count < max_count):
                chosen.append(data_sample)
        return chosen

    def _image_of(self, data_sample: SegDataSample) -> np.ndarray:
        content = get(data_sample.img_path, backend_args=self.backend_args)
        return np.ascontiguousarray(decode_image(content, data_sample.img_path)[..., ::-1])

    def _test_dir(self, runner: Runner) -> str:
        out_dir = self.out_dir or getattr(runner.visualizer, 'save_dir', None)
        if out_dir is None or osp.abspath(out_dir) == osp.abspath(runner.log_dir):
            out_dir = 'vis_test'  # beside the log, not among its files
        return osp.join(runner.log_dir, out_dir)


__all__ = ['RefSegVisualizationHook']
