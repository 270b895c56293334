"""What no command of ours may print when it starts, and the check that test files hold its output against."""

from __future__ import annotations

# Words of messages that packages print at every start, written here once more: a change of `mmetris.utils.quiet` must
# not change what its tests look for.
NOISE = (
    'Could not import OneDL',
    'paramwise_options',
    'is skipped since its requires_grad',
    ' - torch.Size([',
    'MKL_NUM_THREADS',
    'OMP_NUM_THREADS',
    'FileClient',
    'HardDiskBackend',
    'The prefix is not set',
    'MultiScaleDeformableAttention',
    'pkg_resources',
    '`broadcast_buffers` is deprecated',
    'The draw is False',
    '`reduce_zero_label` will be deprecated',
)


def assert_quiet(output: str) -> None:
    """Fail if an output has a line of :data:`NOISE`.

    Args:
        output: What a command printed, on both streams.
    """
    noisy = [line for line in output.split('\n') if any(words in line for words in NOISE)]
    assert not noisy, '\n'.join(noisy[:5])
