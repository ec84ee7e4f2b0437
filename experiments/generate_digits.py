"""Write build/generated_digits.npz for trades_generated.yaml: 20 new digits for each one of the training part.

In place of a diffusion model it draws from a kernel density estimate of each class, in 30 principal components.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity

from advcore.data.named import Digits

PATH = Path("build/generated_digits.npz")


def main() -> None:
    train = Digits().load(torch.device("cpu")).train
    ((_, x, y),) = train.batches([torch.arange(len(train))])
    images, labels = x.flatten(1).numpy(), y.numpy()
    components = PCA(30).fit(images)
    drawn, drawn_labels = [], []
    for label in range(10):
        points = components.transform(images[labels == label])
        density = KernelDensity(bandwidth=0.1).fit(points)
        new = components.inverse_transform(density.sample(20 * len(points), random_state=label))
        drawn.append(new.clip(0, 1).reshape(-1, 1, 8, 8).astype(np.float32))
        drawn_labels.append(np.full(len(new), label))
    PATH.parent.mkdir(exist_ok=True)
    np.savez(PATH, image=np.concatenate(drawn), label=np.concatenate(drawn_labels))
    print(f"wrote {PATH}")


if __name__ == "__main__":
    main()
