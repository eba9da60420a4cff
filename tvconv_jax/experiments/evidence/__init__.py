"""Evidence on where TVConv helps: sets of real images, variants of a model, a learning rate for each pair."""
