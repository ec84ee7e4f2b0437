"""One row an example: the thing a solver looks at."""

from advcore.gradients.base import Gradient
from advcore.gradients.input_norm import INPUT_NORM
from advcore.gradients.last_layer import LAST_LAYER

GRADIENTS: dict[str, Gradient] = {"last_layer": LAST_LAYER, "input_norm": INPUT_NORM}
