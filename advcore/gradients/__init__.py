"""One row an example: the thing a solver looks at."""

from advcore.gradients.input_norm import input_norms
from advcore.gradients.last_layer import last_layer_rows

GRADIENTS = {"last_layer": last_layer_rows, "input_norm": input_norms}
