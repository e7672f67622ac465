"""Random augmentation on the device: pure functions, compiled into the training step.

Everything that is drawn for an example comes from a key of its own, made of the run's seed, the
epoch and the example's index in its split (`keys.py`). What an example looks like therefore
depends neither on the batch it is in nor on the number of devices, and a resumed run repeats it.
Partners for mixup and cutmix are the exception: they come from the batch.
"""

from jtl.config.augment import PRESETS, Augment, Flip, Policy, Preset
from jtl.data.augment.augmentation import Augmentation, View

__all__ = ["PRESETS", "Augment", "Augmentation", "Flip", "Policy", "Preset", "View"]
