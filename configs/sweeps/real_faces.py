"""TVConv and the depthwise convolution on real faces at the paper's size and epochs: 96x96, 38 epochs.

    python -m tvconv_jax.data pairs faces_rates --hold-out=0.1
    python -m tvconv_jax.experiments.sweep configs/sweeps/real_faces.py --settings="rate *" --out=runs/real \
        --config.data.root=faces_rates --config.data.include_list=faces_rates/own_train.txt
    python -m tvconv_jax.experiments.sweep configs/sweeps/real_faces.py --settings="faces *" --out=runs/real \
        --config.data.root=faces

``faces_rates`` is a copy of ``faces`` with the folder ``train`` alone. The first command keeps a tenth of its
identities apart, the second trains on the others at every learning rate, at 48x48 for twelve epochs, and verifies on
those kept apart; ``--settings="sgd *"`` does so by the paper's recipe, with generators of 8 hidden channels. By the
quick recipe ``RATE`` is the best of either operator on LFW and CALFW (``docs/lead.md``); the third command trains by it
on all identities and verifies on the sets of ``faces``. The model is MobileNetV2 x0.1, whole, in batches of 64.
"""

from tvconv_jax.experiments.sweep import Setting, Sweep

CONFIG = "configs/face_mb01.py"
OPERATORS = ("tvconv", "depthwise")
GRID = {"rate": (1e-3, 3.2e-3, 1e-2), "sgd": (1e-2, 3.2e-2, 1e-1)}
RATE = 3.2e-3
BATCH = 64
FULL, SHORT = (96, 38, 4), (48, 12, 2)  # size, epochs, evaluations


def setting(group: str, label: str, operator: str, learning_rate: float) -> Setting:
    size, epochs, evaluations = FULL if group == "faces" else SHORT
    recipe = "paper" if group == "sgd" else "quick"
    argument = f"data=folder,operator={operator},image_size={size},epochs={epochs},batch_size={BATCH},recipe={recipe}"
    changes = {
        "data.cache": "device",
        "optimizer.learning_rate": learning_rate,
        "train.eval_every": epochs / evaluations,
        "train.checkpoint_every": 200,
    }
    if group == "sgd":
        changes |= {
            "model.hidden_channels": 8,
            "optimizer.lr_scaling": "none",
            "optimizer.base_batch": BATCH,
            "optimizer.warmup_epochs": 1.0,
        }
    return Setting(label, CONFIG, argument, changes=changes, group=group)


def get_sweep() -> Sweep:
    return Sweep(
        title="Real faces: MobileNetV2 x0.1",
        settings=[
            *(setting(g, f"{o} {rate:g}", o, rate) for g, grid in GRID.items() for o in OPERATORS for rate in grid),
            *(setting("faces", o, o, RATE) for o in OPERATORS),
        ],
    )
