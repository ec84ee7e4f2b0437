from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.selection.schedule import Schedule
from advcore.training import SGD

trainer = Trainer(
    objective="pgd",
    attack=LinfPGD(eps=8 / 255, step_size=2 / 255, steps=10),
    solver="gradmatch",
    budget=0.5,
    schedule=Schedule(epochs=30, warm_start=0.6, period=5),
    optimizer=SGD(lr=0.05),
)
trained = trainer.fit(model, train, held_out, seed=0)  # trains `model` in place
model.load_state_dict(trained.best)
