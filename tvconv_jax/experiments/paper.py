"""Figures of the paper that several experiments show beside ours (Chen et al. 2022, https://arxiv.org/abs/2203.10489)."""

# Table 1: mean accuracy over LFW, CFP-FF, AgeDB-30 and CALFW in percent, depthwise convolution and TVConv, by model and
# width; 329,000 images at 96x96, 24,000 steps of 512 (38 epochs), five runs.
ACCURACIES = {
    ("mobilenetv2", 0.1): (87.20, 91.41),
    ("mobilenetv2", 0.2): (90.01, 92.21),
    ("mobilenetv2", 0.3): (91.22, 92.93),
    ("mobilenetv2", 0.5): (92.11, 93.33),
    ("mobilenetv2", 1.0): (93.37, 94.22),
    ("shufflenetv2", 0.5): (90.82, 92.24),
    ("shufflenetv2", 1.0): (92.75, 93.34),
    ("shufflenetv2", 1.5): (93.37, 93.84),
}
