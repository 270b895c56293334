"""Segment what sentences mean in an image or a folder of images; the same as ``mmetris segment``.

python demo/image_demo.py photo.jpg "the left dog" "the brown cat" --out-file dogs.png
python demo/image_demo.py photos/ "the dog" --out-dir results --device cpu
"""

from mmetris.cli import run, segment

if __name__ == '__main__':
    run(segment)
