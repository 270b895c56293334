"""Segment what sentences mean in each frame of a video; the same as ``mmetris video``.

python demo/video_demo.py clip.mp4 "the red car" --out-file car.mp4 --every 3
"""

from mmetris.cli import run, video

if __name__ == '__main__':
    run(video)
