"""Which of some names a picture shows.

python projects/classification/classify.py photo.jpg --names "red circle;blue square"
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from mmengine.logging import MMLogger  # noqa: E402

from projects.classification.classification.inference import Classification, ImageClassifier  # noqa: E402

DEFAULT_CONFIG = ROOT / 'projects/classification/configs/bridged_tiny_shapes-classes.py'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('images', nargs='+', help='pictures: files or addresses')
    parser.add_argument('--names', help='the classes, with semicolons between them, or a text file with one a line')
    parser.add_argument('--config', default=str(DEFAULT_CONFIG), help='default: the tiny CLIP, which knows Shapes only')
    parser.add_argument('--checkpoint', help="a trained model; without one, the answers are CLIP's own")
    parser.add_argument('--templates', nargs='+', help='sentences with {} for the name; default those of the config')
    parser.add_argument('--top', type=int, default=3, help='classes that are printed; default 3')
    parser.add_argument('--json', action='store_true', help='all probabilities, one JSON object a line')
    parser.add_argument('--device', help='default: cuda:0 if there is one')
    return parser.parse_args()


def names_of(text: str | None) -> list[str] | str | None:
    """Names of the command line: a file's name, or a list."""
    if text is None or Path(text).is_file():
        return text
    return [name.strip() for name in text.split(';') if name.strip()]


def told(answer: Classification, top: int, is_trained: bool) -> str:
    """Lines for a person."""
    rows = {'trained' if is_trained else 'zero-shot CLIP': answer.probabilities}
    if is_trained and answer.zero_shot is not None:
        rows['zero-shot CLIP'] = answer.zero_shot
    lines = [f'{answer.image}: {answer.name}']
    for kind, probabilities in rows.items():
        best = ', '.join(f'{name} {100 * value:.1f} %' for name, value in list(probabilities.items())[:top])
        lines.append(f'  {kind}: {best}')
    return '\n'.join(lines)


def main() -> None:
    """Answer; what is wrong with the arguments or a picture ends with one line and exit status 2."""
    args = parse_args()
    MMLogger.get_instance('classify', log_level='ERROR')
    try:
        classifier = ImageClassifier(args.config, args.checkpoint, args.device)
        answers = classifier(args.images, names_of(args.names), args.templates)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    for answer in answers:
        if args.json:
            print(json.dumps(vars(answer), ensure_ascii=False))
        else:
            print(told(answer, args.top, is_trained=args.checkpoint is not None))


if __name__ == '__main__':
    main()
