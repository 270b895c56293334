"""MMSeg's data sets and transforms, imported before ours so that their names are registered, and quietly."""

from mmetris.utils.quiet import without_onedl_line

with without_onedl_line():
    import mmseg.datasets  # noqa: F401
