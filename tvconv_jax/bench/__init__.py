"""Speed beside a PyTorch baseline, tables of exported models, and plans for devices that are not here."""
