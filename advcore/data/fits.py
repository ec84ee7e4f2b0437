"""To be removed: see compatibility.py."""

from advcore.data.compatibility import check_fits, class_count

__all__ = ["check_fits", "class_count"]
