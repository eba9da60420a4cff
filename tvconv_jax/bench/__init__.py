"""Speed beside a PyTorch baseline, tables of exported models, and plans for other devices."""
