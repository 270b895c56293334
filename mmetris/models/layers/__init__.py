"""Building blocks of encoders, Bridger and decoder; they know nothing of data or task."""
